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
    struct tn_handle *handle = (struct tn_handle *)self;
    if (handle) {
        handle->slot = -1; /* until all is set, for __del__ */
        handle->companion = handle->quarantined = -1;
        handle->sole_owner = 1;
    }
    return self;
}

static int handle_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct tn_handle *handle = (struct tn_handle *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(handle->engine);
    Py_VISIT(handle->drained);
    Py_VISIT(handle->closed);
    Py_VISIT(handle->owner);
    Py_VISIT(handle->waiting_for_slot);
    Py_VISIT(handle->opened_at);
    Py_VISIT(handle->received);
    Py_VISIT(handle->receive_lost);
    Py_VISIT(handle->send_lost);
    return 0;
}

static int handle_clear(PyObject *self)
{
    struct tn_handle *handle = (struct tn_handle *)self;
    Py_CLEAR(handle->engine);
    Py_CLEAR(handle->drained);
    Py_CLEAR(handle->closed);
    Py_CLEAR(handle->owner);
    Py_CLEAR(handle->waiting_for_slot);
    Py_CLEAR(handle->opened_at);
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
    {"_drained", T_OBJECT, offsetof(struct tn_handle, drained), 0, NULL},
    {"_closed", T_OBJECT, offsetof(struct tn_handle, closed), 0, NULL},
    {"_owner", T_OBJECT, offsetof(struct tn_handle, owner), 0, NULL},
    {"_waiting_for_slot", T_OBJECT, offsetof(struct tn_handle, waiting_for_slot), 0, NULL},
    {"_opened_at", T_OBJECT, offsetof(struct tn_handle, opened_at), 0, NULL},
    {"_companion", T_INT, offsetof(struct tn_handle, companion), 0, NULL},
    {"_quarantined", T_INT, offsetof(struct tn_handle, quarantined), 0, NULL},
    {"_sole_owner", T_BOOL, offsetof(struct tn_handle, sole_owner), 0, NULL},
    {"_closing", T_BOOL, offsetof(struct tn_handle, is_closing), 0, NULL},
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
