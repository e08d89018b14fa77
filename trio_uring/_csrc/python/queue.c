/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The submission queue of an EngineRing, and its members as attributes of that.
 */
#include "native.h"

static PyTypeObject *queue_type;

static PyObject *attach(PyObject *self, PyObject *args)
{
    struct tn_queue *queue = (struct tn_queue *)self;
    unsigned long long ring, sqes;
    PyObject *entries;
    if (!PyArg_ParseTuple(args, "KKO!", &ring, &sqes, &PyList_Type, &entries))
        return NULL;
    PyObject *before = queue->entries;
    queue->entries = tn_new_ref(entries);
    Py_XDECREF(before);
    queue->ring = (struct tu_ring *)(uintptr_t)ring;
    queue->sqes = (struct tu_sqe *)(uintptr_t)sqes;
    Py_RETURN_NONE;
}

static PyObject *detach(PyObject *self, PyObject *Py_UNUSED(none))
{
    ((struct tn_queue *)self)->sqes = NULL;
    Py_CLEAR(((struct tn_queue *)self)->entries);
    Py_RETURN_NONE;
}

static void queue_dealloc(PyObject *self)
{
    Py_CLEAR(((struct tn_queue *)self)->entries);
    tn_free(self);
}

static PyMemberDef queue_members[] = {
    {"tail", T_UINT, offsetof(struct tn_queue, tail), 0, NULL},
    {"limit", T_UINT, offsetof(struct tn_queue, limit), 0, NULL},
    {"mask", T_UINT, offsetof(struct tn_queue, mask), 0, NULL},
    {NULL},
};

static PyMethodDef queue_methods[] = {
    {"attach", attach, METH_VARARGS, PyDoc_STR("(address of the struct tu_ring, of its entries; the `Sqe` of each)")},
    {"detach", detach, METH_NOARGS, PyDoc_STR("The entries are gone.")},
    {NULL},
};

static PyType_Slot queue_slots[] = {
    {Py_tp_doc, "The submission queue of a ring, as Python and C see it."},
    {Py_tp_members, queue_members},
    {Py_tp_methods, queue_methods},
    {Py_tp_dealloc, queue_dealloc},
    {0, NULL},
};

static PyType_Spec queue_spec = {
    "trio_uring._native.Queue", sizeof(struct tn_queue), 0, Py_TPFLAGS_DEFAULT, queue_slots};

/* -- an attribute of a ring that is a member of its queue ----------------------------------------- */

struct forward {
    PyObject_HEAD
    Py_ssize_t offset;
};

static uint32_t *forwarded(PyObject *self, PyObject *ring)
{
    PyObject *queue = PyObject_GetAttr(ring, tn_str__queue);
    if (!queue)
        return NULL;
    uint32_t *place = (uint32_t *)((char *)queue + ((struct forward *)self)->offset);
    if (!PyObject_TypeCheck(queue, queue_type)) {
        PyErr_SetString(PyExc_TypeError, "_queue must be a Queue");
        place = NULL;
    }
    Py_DECREF(queue); /* the ring keeps it */
    return place;
}

static PyObject *forward_get(PyObject *self, PyObject *ring, PyObject *Py_UNUSED(type))
{
    if (!ring)
        return tn_new_ref(self);
    uint32_t *place = forwarded(self, ring);
    return place ? PyLong_FromUnsignedLong(*place) : NULL;
}

static int forward_set(PyObject *self, PyObject *ring, PyObject *value)
{
    if (!value) {
        PyErr_SetString(PyExc_AttributeError, "cannot be deleted");
        return -1;
    }
    unsigned long number = PyLong_AsUnsignedLong(value);
    if (number == (unsigned long)-1 && PyErr_Occurred())
        return -1;
    uint32_t *place = forwarded(self, ring);
    if (!place)
        return -1;
    *place = (uint32_t)number;
    return 0;
}

static int forward_init(PyObject *self, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    const char *name;
    if (!PyArg_ParseTuple(args, "s", &name))
        return -1;
    for (const PyMemberDef *member = queue_members; member->name; member++)
        if (!strcmp(member->name, name)) {
            ((struct forward *)self)->offset = member->offset;
            return 0;
        }
    PyErr_Format(PyExc_ValueError, "a queue has no %s", name);
    return -1;
}

static PyType_Slot forward_slots[] = {
    {Py_tp_doc, "Makes a member of ``self._queue`` an attribute of ``self``."},
    {Py_tp_descr_get, forward_get},
    {Py_tp_descr_set, forward_set},
    {Py_tp_init, forward_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, tn_free},
    {0, NULL},
};

static PyType_Spec forward_spec = {
    "trio_uring._native.OfQueue", sizeof(struct forward), 0, Py_TPFLAGS_DEFAULT, forward_slots};

int tn_add_queue(PyObject *module)
{
    queue_type = (PyTypeObject *)tn_make_type(module, &queue_spec);
    return queue_type && tn_make_type(module, &forward_spec) ? 0 : -1;
}
