/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Memory of operations: the buffers that all receives of a run share, and `bytes`.
 */
#include "native.h"

PyTypeObject *tn_buffers_type;

/* A copy of what a completion with these flags received; its buffer is returned. */
PyObject *tn_take(struct tn_buffers *buffers, uint32_t flags, Py_ssize_t nbytes)
{
    uint32_t id = flags >> TN_BUFFER_SHIFT;
    if (id >= buffers->count || nbytes < 0 || (size_t)nbytes > buffers->nbytes) {
        PyErr_SetString(PyExc_SystemError, "the kernel names a receive buffer that there is not");
        return NULL;
    }
    PyObject *data = PyBytes_FromStringAndSize(buffers->memory + (size_t)id * buffers->nbytes, nbytes);
    buffers->returned += !buffers->flags[id];
    buffers->flags[id] = 1;
    return data;
}

void tn_give_back(struct tn_buffers *buffers)
{
    buffers->returned -= (long)tn_core.give_in_order(
        buffers->buf_ring, buffers->count - 1, buffers->flags, (uintptr_t)buffers->memory,
        buffers->nbytes);
}

static PyObject *take(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "take() takes 2 arguments");
        return NULL;
    }
    unsigned long flags = PyLong_AsUnsignedLong(args[0]);
    Py_ssize_t nbytes = PyLong_AsSsize_t(args[1]);
    if (PyErr_Occurred())
        return NULL;
    return tn_take((struct tn_buffers *)self, (uint32_t)flags, nbytes);
}

static PyObject *attach(PyObject *self, PyObject *args)
{
    struct tn_buffers *buffers = (struct tn_buffers *)self;
    unsigned long long memory, flags, buf_ring;
    if (!PyArg_ParseTuple(args, "KKKII", &memory, &flags, &buf_ring, &buffers->count, &buffers->nbytes))
        return NULL;
    buffers->memory = (char *)(uintptr_t)memory;
    buffers->flags = (uint8_t *)(uintptr_t)flags;
    buffers->buf_ring = (void *)(uintptr_t)buf_ring;
    Py_RETURN_NONE;
}

static PyMemberDef buffers_members[] = {
    {"nbytes", T_UINT, offsetof(struct tn_buffers, nbytes), READONLY, NULL},
    {"returned", T_LONG, offsetof(struct tn_buffers, returned), 0, NULL},
    {NULL},
};

static PyMethodDef buffers_methods[] = {
    {"_attach", attach, METH_VARARGS,
     PyDoc_STR("Addresses of the buffers, of a flag for each, of their ring; how many, how long.")},
    {"take", (PyCFunction)(void *)take, METH_FASTCALL,
     PyDoc_STR("take(flags, nbytes): a copy of what a completion received; its buffer is returned.")},
    {NULL},
};

static PyType_Slot buffers_slots[] = {
    {Py_tp_doc, "The members of the shared receive buffers."},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, tn_free},
    {Py_tp_members, buffers_members},
    {Py_tp_methods, buffers_methods},
    {0, NULL},
};

static PyType_Spec buffers_spec = {
    "trio_uring._native.SharedBuffers", sizeof(struct tn_buffers), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, buffers_slots};

/* -- memory of the caller's that is exported once -------------------------------------------------- */

PyTypeObject *tn_pinned_type;

static int pinned_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct tn_pinned *pinned = (struct tn_pinned *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(pinned->export);
    Py_VISIT(pinned->engine);
    Py_VISIT(pinned->place);
    return 0;
}

static int pinned_clear(PyObject *self)
{
    struct tn_pinned *pinned = (struct tn_pinned *)self;
    Py_CLEAR(pinned->export);
    Py_CLEAR(pinned->engine);
    Py_CLEAR(pinned->place);
    return 0;
}

static void pinned_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    pinned_clear(self);
    tn_free(self);
}

static PyMemberDef pinned_members[] = {
    {"export", T_OBJECT, offsetof(struct tn_pinned, export), 0, NULL},
    {"_engine", T_OBJECT, offsetof(struct tn_pinned, engine), 0, NULL},
    {"_place", T_OBJECT, offsetof(struct tn_pinned, place), 0, NULL},
    {"address", T_ULONGLONG, offsetof(struct tn_pinned, address), 0, NULL},
    {"nbytes", T_ULONGLONG, offsetof(struct tn_pinned, nbytes), 0, NULL},
    {"writable", T_BOOL, offsetof(struct tn_pinned, writable), 0, NULL},
    {NULL},
};

static PyType_Slot pinned_slots[] = {
    {Py_tp_doc, "The members of a PinnedBuffer."},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, pinned_dealloc},
    {Py_tp_traverse, pinned_traverse},
    {Py_tp_clear, pinned_clear},
    {Py_tp_members, pinned_members},
    {0, NULL},
};

static PyType_Spec pinned_spec = {
    "trio_uring._native.Pinned", sizeof(struct tn_pinned), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, pinned_slots};

int tn_add_buffers(PyObject *module)
{
    tn_buffers_type = (PyTypeObject *)tn_make_type(module, &buffers_spec);
    tn_pinned_type = (PyTypeObject *)tn_make_type(module, &pinned_spec);
    return tn_buffers_type && tn_pinned_type ? 0 : -1;
}
