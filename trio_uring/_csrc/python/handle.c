/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The members of a handle that operations look at.
 */
#include "native.h"

#define OP_CLOSE 19

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

/* Enters it under its slot; not as its owner. */
static int enter(PyObject *self, struct tn_engine *engine, int slot)
{
    PyObject *number = PyLong_FromLong(slot);
    PyObject *reference = number ? PyWeakref_NewRef(self, NULL) : NULL;
    int rc = reference ? PyObject_SetItem(engine->files, number, reference) : -1;
    Py_XDECREF(number);
    Py_XDECREF(reference);
    return rc;
}

/* _open(engine, slot, companion, opened_at): from now on it is a file. */
PyObject *tn_open_handle(PyObject *self, PyObject *args)
{
    struct tn_handle *handle = (struct tn_handle *)self;
    PyObject *engine, *opened_at;
    int slot, companion;
    if (!PyArg_ParseTuple(args, "O!iiO", tn_engine_type, &engine, &slot, &companion, &opened_at))
        return NULL;
    if (handle->engine) {
        PyErr_SetString(PyExc_RuntimeError, "a handle is opened once");
        return NULL;
    }
    handle->engine = tn_new_ref(engine);
    handle->opened_at = tn_new_ref(opened_at);
    handle->companion = companion;
    handle->number = companion < 0 ? slot : companion;
    handle->fixed = companion < 0; /* SqeFlag.FIXED_FILE */
    if (enter(self, (struct tn_engine *)engine, slot))
        return NULL;
    handle->slot = slot;
    Py_RETURN_NONE;
}

/* Nothing but the close operation is needed, and nobody has to be told. */
static int closes_plainly(const struct tn_handle *handle, const struct tn_engine *engine)
{
    int is_socket = !tn_is_none(handle->kind);
    return !handle->in_flight && handle->companion < 0 && tn_is_none(handle->waiting_for_slot) &&
           !(is_socket && handle->sole_owner && engine->lets_go_late);
}

/* The slot leaves the handle, so that no later call can name it. -1: an exception. */
static int leave_slot(PyObject *self, struct tn_engine *engine)
{
    struct tn_handle *handle = (struct tn_handle *)self;
    PyObject *number = PyLong_FromLong(handle->slot);
    handle->slot = -1;
    handle->is_closing = 1;
    int rc = number ? PyObject_DelItem(engine->files, number) : -1;
    Py_XDECREF(number);
    if (rc)
        PyErr_Clear(); /* nobody looks for it there any more */
    if (tn_is_none(handle->owner))
        return 0;
    PyObject *none = PyObject_CallMethodObjArgs(handle->owner, tn_str__forget, self, NULL);
    Py_XDECREF(none);
    return none ? 0 : -1;
}

/* What `aclose` awaits, in the usual case. An exception: it has begun if the slot is -1. */
PyObject *tn_begin_close(PyObject *self, PyObject *Py_UNUSED(none))
{
    struct tn_handle *handle = (struct tn_handle *)self;
    struct tn_engine *engine = tn_engine_of(self);
    if (!engine || !closes_plainly(handle, engine))
        Py_RETURN_NONE;
    struct tu_sqe *sqe;
    struct tn_operation *operation = tn_begin(engine, NULL, &sqe);
    if (!operation)
        return NULL;
    if (handle->slot < 0 || !closes_plainly(handle, engine)) { /* by what ran to make room */
        *sqe = (struct tu_sqe){0};
        tn_abandon(operation);
        Py_RETURN_NONE;
    }
    *sqe = (struct tu_sqe){.opcode = OP_CLOSE, .file_index = (uint32_t)handle->slot + 1,
                           .user_data = operation->user_data};
    if (leave_slot(self, engine))
        PyErr_WriteUnraisable(self); /* it closes all the same */
    return tn_awaitable(operation, TN_NUMBER, 1);
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

#define HANDLE_OBJECTS(X)                                                                         \
    X("_engine", engine) X("_kind", kind) X("_receive_lost", receive_lost)                \
    X("_send_lost", send_lost) X("_drained", drained) X("_closed", closed) X("_owner", owner)     \
    X("_waiting_for_slot", waiting_for_slot) X("_opened_at", opened_at)

static int handle_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct tn_handle *handle = (struct tn_handle *)self;
    Py_VISIT(Py_TYPE(self));
#define VISIT(name, member) Py_VISIT(handle->member);
    HANDLE_OBJECTS(VISIT)
#undef VISIT
    Py_VISIT(handle->received);
    return 0;
}

static int handle_clear(PyObject *self)
{
    struct tn_handle *handle = (struct tn_handle *)self;
#define CLEAR(name, member) Py_CLEAR(handle->member);
    HANDLE_OBJECTS(CLEAR)
#undef CLEAR
    Py_CLEAR(handle->received);
    return 0;
}

static void handle_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    handle_clear(self);
    tn_free(self);
}

static PyMemberDef handle_members[] = {
#define MEMBER(name, member) {name, T_OBJECT, offsetof(struct tn_handle, member), 0, NULL},
    HANDLE_OBJECTS(MEMBER)
#undef MEMBER
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

/* Made when it is asked for: most sockets never need it. */
static PyObject *handle_received(PyObject *self, void *Py_UNUSED(none))
{
    struct tn_handle *handle = (struct tn_handle *)self;
    if (!handle->received && !(handle->received = PyList_New(0)))
        return NULL;
    return tn_new_ref(handle->received);
}

static PyGetSetDef handle_getset[] = {
    {"_received", handle_received, NULL,
     PyDoc_STR("Bytes that a multishot receive had taken when it was ended."), NULL},
    {NULL},
};

static PyType_Slot handle_slots[] = {
    {Py_tp_doc, "The members of a handle, and its operations where nothing is unusual."},
    {Py_tp_new, handle_new},
    {Py_tp_dealloc, handle_dealloc},
    {Py_tp_traverse, handle_traverse},
    {Py_tp_clear, handle_clear},
    {Py_tp_members, handle_members},
    {Py_tp_getset, handle_getset},
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
