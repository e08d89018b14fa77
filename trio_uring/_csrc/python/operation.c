/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * One awaited operation. Its life, and who owns what, is written in _operation.py.
 *
 * The record is what the task awaits, and what Trio sends into it when it is done. So an await
 * allocates nothing.
 */
#include "native.h"

PyTypeObject *tn_operation_type;

static void swap_out(PyObject **place, PyObject **garbage, int *count)
{
    if (*place) {
        garbage[(*count)++] = *place;
        *place = NULL;
    }
}

/* Without memory for that it is not used again. */
static void keep(struct tn_engine *engine, struct tn_operation *operation)
{
    if (engine->pool_count == engine->pool_size) {
        Py_ssize_t size = engine->pool_size ? 2 * engine->pool_size : 16;
        void *bigger = PyMem_Realloc(engine->pool, (size_t)size * sizeof(*engine->pool));
        if (!bigger)
            return;
        engine->pool = bigger;
        engine->pool_size = size;
    }
    engine->pool[engine->pool_count++] = tn_new_ref(operation);
}

/* Letting go of what it kept can run any code: the record is in order by then. */
void tn_recycle(struct tn_operation *operation)
{
    struct tn_engine *engine = operation->engine;
    PyObject *garbage[4];
    Py_buffer view = operation->view;
    int count = 0;
    operation->view.obj = NULL;
    if (operation->linked)
        engine->sent = operation->sent;
    swap_out(&operation->task, garbage, &count);
    swap_out(&operation->file, garbage, &count);
    swap_out(&operation->pins, garbage, &count);
    swap_out(&operation->raise_cancel, garbage, &count);
    operation->closing = operation->bounded = operation->linked = operation->strict = 0;
    operation->kind = TN_NUMBER;
    operation->state = TN_IDLE;
    if (operation->batch) {
        tn_recycle_batch(operation);
    } else {
        operation->user_data = (operation->user_data + TN_GENERATION) & TN_USER_DATA_MASK;
        keep(engine, operation);
    }
    if (view.obj)
        PyBuffer_Release(&view);
    while (count)
        Py_DECREF(garbage[--count]);
}

/* `bytes` that the kernel wrote `nbytes` of; nobody else has seen them. Takes over the reference. */
static PyObject *shortened(PyObject *data, Py_ssize_t nbytes)
{
    if (nbytes == PyBytes_Size(data))
        return data;
    PyObject *copy = PyBytes_FromStringAndSize(PyBytes_AsString(data), nbytes);
    Py_DECREF(data);
    return copy;
}

static PyObject *received(PyObject *file, uint32_t flags, Py_ssize_t nbytes)
{
    struct tn_handle *socket = (struct tn_handle *)file;
    struct tn_engine *engine = (struct tn_engine *)socket->engine;
    if (flags & TN_F_BUFFER) {
        struct tn_buffers *buffers = (struct tn_buffers *)engine->buffers;
        if (nbytes == (Py_ssize_t)buffers->nbytes) /* more may be there */
            socket->may_share = 0;
        return tn_take(buffers, flags, nbytes);
    }
    if (!tn_is_none(socket->send_lost) && tn_tell(socket, tn_str__at_end))
        return NULL;
    return PyBytes_FromStringAndSize(NULL, 0);
}

PyObject *tn_outcome(struct tn_operation *operation)
{
    int64_t res = operation->res;
    if (res < 0)
        return tn_call_method(operation, tn_str__raise);
    uint32_t flags = operation->flags;
    enum tn_kind kind = operation->kind;
    PyObject *kept = NULL, *outcome;
    if (kind == TN_BATCH) {
        outcome = tn_answers(operation);
        tn_recycle(operation);
        return outcome;
    }
    if (kind == TN_READ) {
        kept = operation->pins;
        operation->pins = NULL;
    } else if (kind == TN_RECEIVED) {
        kept = tn_new_ref(operation->file);
    }
    uint32_t nbytes = operation->nbytes;
    tn_recycle(operation);
    switch (kind) {
    case TN_READ:
        return shortened(kept, (Py_ssize_t)res);
    case TN_RECEIVED:
        outcome = received(kept, flags, (Py_ssize_t)res);
        break;
    case TN_SENT:
        return res == nbytes ? tn_new_ref(Py_None) : PyLong_FromLongLong(res);
    default:
        return PyLong_FromLongLong(res);
    }
    Py_DECREF(kept);
    return outcome;
}

/* -- awaiting ------------------------------------------------------------------------------------- */

static PyObject *asleep(struct tn_operation *operation)
{
    operation->state = TN_SLEEPING;
    return tn_new_ref(operation->message);
}

/* A step of the task: NULL with `*ended` is an exception. */
static PyObject *step(struct tn_operation *operation, PyObject *sent, int *ended)
{
    *ended = 1;
    switch (operation->state) {
    case TN_PROMPT:
        if (tn_finished_now(operation->engine, operation))
            return tn_outcome(operation);
        /* fall through */
    case TN_BEGUN:
        *ended = 0;
        return asleep(operation);
    case TN_SLEEPING:
        if (sent == (PyObject *)operation)
            return tn_outcome(operation);
        return tn_call_method(sent, tn_str_unwrap); /* it says why nothing is to be waited for */
    default:
        PyErr_SetString(PyExc_RuntimeError, "an operation is awaited once");
        return NULL;
    }
}

static PySendResult operation_am_send(PyObject *self, PyObject *sent, PyObject **result)
{
    int ended;
    *result = step((struct tn_operation *)self, sent, &ended);
    return !*result ? PYGEN_ERROR : ended ? PYGEN_RETURN : PYGEN_NEXT;
}

/* Python awaits in this way while it is traced. */
static PyObject *operation_send(PyObject *self, PyObject *sent)
{
    int ended;
    PyObject *result = step((struct tn_operation *)self, sent, &ended);
    if (!result || !ended)
        return result;
    PyObject *stop = PyObject_CallFunctionObjArgs(PyExc_StopIteration, result, NULL);
    Py_DECREF(result);
    if (stop) {
        PyErr_SetObject(PyExc_StopIteration, stop);
        Py_DECREF(stop);
    }
    return NULL;
}

static PyObject *operation_next(PyObject *self)
{
    return operation_send(self, Py_None);
}

/* Nobody will wait for it: as if it had not begun, unless what ran since has submitted it. Then KERNEL
 * OWNS what it keeps, and nobody is told of its end. Keeps the exception. */
static void take_back(struct tn_operation *operation)
{
    struct tn_queue *queue = operation->engine->queue;
    uint32_t count = operation->batch ? operation->batch->count : operation->linked ? 2 : 1;
    uint32_t first = operation->position - (uint32_t)operation->linked;
    uint32_t flushed = operation->engine->flushed;
    if (operation->position - flushed >= queue->tail - flushed) {
        Py_CLEAR(operation->task);
        Py_DECREF(operation);
        return;
    }
    for (uint32_t i = 0; queue->sqes && i < count; i++)
        queue->sqes[(first + i) & queue->mask] = (struct tu_sqe){0};
    if (operation->batch)
        tn_core.batch_abandon(queue->ring, operation->batch);
    operation->linked = 0;
    tn_abandon(operation);
}

PyObject *tn_awaitable(struct tn_operation *operation, enum tn_kind kind, int prompt)
{
    struct tn_engine *engine = operation->engine;
    operation->kind = (uint8_t)kind;
    operation->state = prompt ? TN_PROMPT : TN_BEGUN;
    if (engine->runner)
        return (PyObject *)operation;
    PyObject *sleep = PyObject_CallFunctionObjArgs(engine->sleep, operation->message, NULL);
    if (!sleep) {
        take_back(operation);
        return NULL;
    }
    Py_DECREF(operation);
    return sleep;
}

/* -- methods -------------------------------------------------------------------------------------- */

static PyObject *operation_unwrap(PyObject *self, PyObject *Py_UNUSED(none))
{
    return tn_outcome((struct tn_operation *)self);
}

static PyObject *operation_recycle(PyObject *self, PyObject *Py_UNUSED(none))
{
    tn_recycle((struct tn_operation *)self);
    Py_RETURN_NONE;
}

static int operation_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct tn_operation *operation = (struct tn_operation *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(operation->engine);
    Py_VISIT(operation->task);
    Py_VISIT(operation->file);
    Py_VISIT(operation->pins);
    Py_VISIT(operation->view.obj);
    Py_VISIT(operation->raise_cancel);
    Py_VISIT(operation->abort);
    Py_VISIT(operation->message);
    return 0;
}

static int operation_clear(PyObject *self)
{
    struct tn_operation *operation = (struct tn_operation *)self;
    /* Not the engine: whoever still has the record may use it. */
    Py_CLEAR(operation->task);
    Py_CLEAR(operation->file);
    Py_CLEAR(operation->pins);
    if (operation->view.obj)
        PyBuffer_Release(&operation->view);
    Py_CLEAR(operation->raise_cancel);
    Py_CLEAR(operation->abort);
    Py_CLEAR(operation->message);
    return 0;
}

static void operation_dealloc(PyObject *self)
{
    PyObject_GC_UnTrack(self);
    operation_clear(self);
    PyMem_Free(((struct tn_operation *)self)->batch);
    Py_CLEAR(((struct tn_operation *)self)->engine);
    tn_free(self);
}

static int operation_init(PyObject *self, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    struct tn_operation *operation = (struct tn_operation *)self;
    PyObject *engine;
    unsigned int index;
    if (!PyArg_ParseTuple(args, "O!I", tn_engine_type, &engine, &index))
        return -1;
    operation->engine = tn_new_ref(engine);
    operation->index = index;
    operation->user_data = TN_GENERATION | index;
    return 0;
}

#define OBJECT(name) {#name, T_OBJECT, offsetof(struct tn_operation, name), 0, NULL}
static PyMemberDef operation_members[] = {
    {"engine", T_OBJECT, offsetof(struct tn_operation, engine), READONLY, NULL},
    OBJECT(task),
    OBJECT(file),
    OBJECT(pins),
    OBJECT(raise_cancel),
    OBJECT(abort),
    OBJECT(message),
    {"user_data", T_ULONGLONG, offsetof(struct tn_operation, user_data), 0, NULL},
    {"res", T_LONGLONG, offsetof(struct tn_operation, res), 0, NULL},
    {"sent", T_LONGLONG, offsetof(struct tn_operation, sent), 0, NULL},
    {"chain", T_UINT, offsetof(struct tn_operation, chain), 0, NULL},
    {"strict", T_BOOL, offsetof(struct tn_operation, strict), 0, NULL},
    {"linked", T_BOOL, offsetof(struct tn_operation, linked), 0, NULL},
    {"index", T_UINT, offsetof(struct tn_operation, index), 0, NULL},
    {"position", T_UINT, offsetof(struct tn_operation, position), 0, NULL},
    {"flags", T_UINT, offsetof(struct tn_operation, flags), 0, NULL},
    {"closing", T_BOOL, offsetof(struct tn_operation, closing), 0, NULL},
    {"bounded", T_BOOL, offsetof(struct tn_operation, bounded), 0, NULL},
    {NULL},
};
#undef OBJECT

static PyObject *operation_sqe(PyObject *self, void *Py_UNUSED(none))
{
    struct tn_operation *operation = (struct tn_operation *)self;
    struct tn_queue *queue = operation->engine->queue;
    PyObject *sqe = queue->entries ? PyList_GetItem(queue->entries, operation->position & queue->mask) : NULL;
    if (!sqe && !PyErr_Occurred())
        PyErr_SetString(PyExc_RuntimeError, "the ring is closed");
    Py_XINCREF(sqe);
    return sqe;
}

static PyGetSetDef operation_getset[] = {
    {"sqe", operation_sqe, NULL, PyDoc_STR("The entry at ``position``, until it is submitted."), NULL},
    {NULL},
};

static PyObject *operation_answers(PyObject *self, PyObject *Py_UNUSED(none))
{
    return tn_answers((struct tn_operation *)self);
}

static PyMethodDef operation_methods[] = {
    {"_hold_results", tn_hold_results, METH_O,
     PyDoc_STR("(count): it is the record of so many; the address of the struct tu_batch.")},
    {"_start", tn_start_batch, METH_VARARGS, PyDoc_STR("(file, pins): a batch is in flight.")},
    {"answers", operation_answers, METH_NOARGS, PyDoc_STR("The results of a batch, in order.")},
    {"send", operation_send, METH_O, PyDoc_STR("A step of the task that awaits it.")},
    {"unwrap", operation_unwrap, METH_NOARGS, PyDoc_STR("The result, in the task that awaited it.")},
    {"recycle", operation_recycle, METH_NOARGS, PyDoc_STR("Nobody needs it; ``flags`` stays.")},
    {NULL},
};

static PyType_Slot operation_slots[] = {
    {Py_tp_doc, "``Operation(engine, index)``: the members of a record."},
    {Py_tp_init, operation_init},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, operation_dealloc},
    {Py_tp_traverse, operation_traverse},
    {Py_tp_clear, operation_clear},
    {Py_tp_members, operation_members},
    {Py_tp_methods, operation_methods},
    {Py_tp_getset, operation_getset},
    {Py_am_await, PyObject_SelfIter},
    {Py_am_send, operation_am_send},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, operation_next},
    {0, NULL},
};

static PyType_Spec operation_spec = {
    "trio_uring._native.Operation", sizeof(struct tn_operation), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, operation_slots};

int tn_add_operation(PyObject *module)
{
    tn_operation_type = (PyTypeObject *)tn_make_type(module, &operation_spec);
    return tn_operation_type ? 0 : -1;
}
