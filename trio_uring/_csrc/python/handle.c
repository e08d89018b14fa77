/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The members of a handle that operations look at.
 */
#include "native.h"

PyTypeObject *tn_handle_type;

/* A handle, or the pair of handles of a splice. */
int tn_operation_began(PyObject *file)
{
    if (PyObject_TypeCheck(file, tn_handle_type)) {
        ((struct tn_handle *)file)->in_flight++;
        return 0;
    }
    PyObject *one = PyLong_FromLong(1);
    int rc = one ? PyObject_SetAttr(file, tn_str__in_flight, one) : -1;
    Py_XDECREF(one);
    return rc;
}

int tn_operation_ended(PyObject *file)
{
    if (PyObject_TypeCheck(file, tn_handle_type) && ((struct tn_handle *)file)->slot >= 0) {
        ((struct tn_handle *)file)->in_flight--;
        return 0;
    }
    return tn_tell(file, tn_str__operation_ended); /* somebody may wait for it */
}

static PyObject *handle_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    PyObject *self = PyType_GenericAlloc(type, 0);
    if (self)
        ((struct tn_handle *)self)->slot = -1; /* until all is set, for __del__ */
    return self;
}

static int handle_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct tn_handle *handle = (struct tn_handle *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(handle->engine);
    Py_VISIT(handle->received);
    Py_VISIT(handle->receive_lost);
    Py_VISIT(handle->send_lost);
    return 0;
}

static int handle_clear(PyObject *self)
{
    struct tn_handle *handle = (struct tn_handle *)self;
    Py_CLEAR(handle->engine);
    Py_CLEAR(handle->received);
    Py_CLEAR(handle->receive_lost);
    Py_CLEAR(handle->send_lost);
    return 0;
}

static void handle_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    handle_clear(self);
    tn_free(self);
}

static PyMemberDef handle_members[] = {
    {"_engine", T_OBJECT, offsetof(struct tn_handle, engine), 0, NULL},
    {"_received", T_OBJECT, offsetof(struct tn_handle, received), 0, NULL},
    {"_receive_lost", T_OBJECT, offsetof(struct tn_handle, receive_lost), 0, NULL},
    {"_send_lost", T_OBJECT, offsetof(struct tn_handle, send_lost), 0, NULL},
    {"_slot", T_INT, offsetof(struct tn_handle, slot), 0, NULL},
    {"_number", T_INT, offsetof(struct tn_handle, number), 0, NULL},
    {"_in_flight", T_INT, offsetof(struct tn_handle, in_flight), 0, NULL},
    {"_fixed", T_UBYTE, offsetof(struct tn_handle, fixed), 0, NULL},
    {"_receiving", T_BOOL, offsetof(struct tn_handle, receiving), 0, NULL},
    {"_sending", T_BOOL, offsetof(struct tn_handle, sending), 0, NULL},
    {"_may_share", T_BOOL, offsetof(struct tn_handle, may_share), 0, NULL},
    {NULL},
};

static PyType_Slot handle_slots[] = {
    {Py_tp_doc, "The members of a handle, and its operations where nothing is unusual."},
    {Py_tp_new, handle_new},
    {Py_tp_dealloc, handle_dealloc},
    {Py_tp_traverse, handle_traverse},
    {Py_tp_clear, handle_clear},
    {Py_tp_members, handle_members},
    {Py_tp_methods, tn_handle_methods},
    {0, NULL},
};

static PyType_Spec handle_spec = {
    "trio_uring._native.Handle", sizeof(struct tn_handle), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, handle_slots};

int tn_add_handle(PyObject *module)
{
    tn_handle_type = (PyTypeObject *)tn_make_type(module, &handle_spec);
    return tn_handle_type ? 0 : -1;
}
