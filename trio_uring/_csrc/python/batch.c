/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Many operations that one task awaits together: what _batch.py is for, where nothing is unusual.
 *
 * The C core writes their SQEs and counts their CQEs; see ../batch.c.
 */
#include <string.h>

#include "native.h"

PyObject *tn_hold_results(PyObject *self, PyObject *number)
{
    struct tn_operation *operation = (struct tn_operation *)self;
    unsigned long count = PyLong_AsUnsignedLong(number);
    if (PyErr_Occurred())
        return NULL;
    if (!count || count > INT32_MAX || operation->batch) {
        PyErr_SetString(PyExc_ValueError, "a record has results once, and one at least");
        return NULL;
    }
    struct tu_batch *batch = PyMem_Calloc(1, sizeof(*batch) + count * sizeof(*batch->results));
    if (!batch)
        return PyErr_NoMemory();
    batch->count = (uint32_t)count;
    batch->results = (int32_t *)(batch + 1);
    operation->batch = batch;
    return PyLong_FromVoidPtr(batch);
}

PyObject *tn_answers(const struct tn_operation *operation)
{
    const struct tu_batch *batch = operation->batch;
    PyObject *answers = PyList_New(batch ? batch->count : 0);
    for (uint32_t i = 0; answers && batch && i < batch->count; i++) {
        PyObject *answer = PyLong_FromLong(batch->results[i]);
        if (!answer || PyList_SetItem(answers, i, answer))
            Py_CLEAR(answers);
    }
    return answers;
}

void tn_recycle_batch(struct tn_operation *operation)
{
    struct tn_engine *engine = operation->engine;
    PyObject *old = engine->spare_batch, *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (tn_remove_record(engine, operation->user_data))
        PyErr_WriteUnraisable((PyObject *)operation); /* its index is lost */
    operation->user_data = 0;
    engine->spare_batch = tn_new_ref(operation);
    if (!tn_is_empty(engine->cancelled_chains) && tn_tell(operation, tn_str__uncancel))
        PyErr_WriteUnraisable((PyObject *)operation);
    Py_XDECREF(old);
    PyErr_Restore(type, value, traceback);
}

/* -- where in the file ---------------------------------------------------------------------------- */

struct offsets {
    Py_buffer view;
    uint64_t *own;          /* NULL: they are used in place */
    const uint64_t *first;
    Py_ssize_t count;
};

static void let_go(struct offsets *offsets)
{
    if (offsets->own)
        PyMem_Free(offsets->own);
    else
        PyBuffer_Release(&offsets->view);
}

/* The numbers of an array, which are used in place. */
static int offsets_in_place(PyObject *object, struct offsets *offsets)
{
    if (PyObject_GetBuffer(object, &offsets->view, PyBUF_CONTIG_RO | PyBUF_FORMAT)) {
        PyErr_Clear();
        return 0;
    }
    const char *format = offsets->view.format;
    /* Also signed ones: those below 0 are too large, then. */
    if (format && strlen(format) == 1 && strchr("QLql", *format) && offsets->view.itemsize == 8) {
        offsets->first = offsets->view.buf;
        offsets->count = offsets->view.len / 8;
        return 1;
    }
    PyBuffer_Release(&offsets->view);
    return 0;
}

static int offsets_of_list(PyObject *list, struct offsets *offsets)
{
    offsets->count = PyList_Size(list);
    offsets->own = PyMem_Malloc((size_t)offsets->count * sizeof(*offsets->own) + 1);
    offsets->first = offsets->own;
    for (Py_ssize_t i = 0; offsets->own && i < offsets->count; i++) {
        long long offset;
        if (!tn_number(PyList_GetItem(list, i), 0, INT64_MAX, &offset)) {
            let_go(offsets);
            return 0;
        }
        offsets->own[i] = (uint64_t)offset;
    }
    return offsets->own != NULL;
}

/* 0: they are not to be had so, which Python says better. Can run any code. */
static int get_offsets(PyObject *object, struct offsets *offsets)
{
    *offsets = (struct offsets){0};
    return PyList_CheckExact(object) ? offsets_of_list(object, offsets)
                                     : offsets_in_place(object, offsets);
}

/* -- reads and writes of one file ----------------------------------------------------------------- */

static int has_room(const struct tn_queue *queue, Py_ssize_t count)
{
    return queue->sqes && queue->limit - queue->tail >= (uint64_t)count;
}

/* A record of so many, and room for their SQEs. NULL: there may be an exception. */
static struct tn_operation *take_record(PyObject *self, struct tn_engine *engine, Py_ssize_t count)
{
    struct tn_queue *queue = engine->queue;
    struct tn_operation *operation = (struct tn_operation *)engine->spare_batch;
    if (!queue->sqes || count > (Py_ssize_t)queue->mask + 1)
        return NULL;
    if (has_room(queue, count) && !tn_is_none(engine->spare_batch) &&
        operation->batch->count == count && !operation->chain) {
        engine->spare_batch = NULL;
        return operation;
    }
    operation = (struct tn_operation *)PyObject_CallMethod(self, "_take_batch", "n", count);
    /* Anything may have happened. */
    if (operation && (!has_room(queue, count) || !tn_engine_of(self)))
        Py_CLEAR(operation);
    return operation;
}

static void abandon(struct tn_operation *operation)
{
    struct tn_queue *queue = operation->engine->queue;
    if (!queue->sqes)
        return; /* the ring is closed, and has forgotten it */
    tn_core.batch_abandon(queue->ring, operation->batch);
    for (uint32_t i = 0; i < operation->batch->count; i++)
        queue->sqes[(queue->tail + i) & queue->mask] = (struct tu_sqe){0};
}

/* Its SQEs are written from the tail on: from now on it is in flight. Takes over the task. -1: it has
 * not begun. */
static int start(struct tn_operation *operation, PyObject *task, PyObject *file)
{
    struct tn_engine *engine = operation->engine;
    struct tn_queue *queue = engine->queue;
    operation->user_data = tn_add_record(engine, (PyObject *)operation);
    if (!operation->user_data) {
        abandon(operation);
        return -1;
    }
    operation->task = task;
    if (file) {
        operation->file = tn_new_ref(file);
        ((struct tn_handle *)file)->in_flight++;
    }
    operation->position = queue->tail;
    queue->tail += operation->batch->count;
    operation->batch->user_data = operation->user_data;
    return 0;
}

/* For Python, which has written the SQEs: (file, pins). KERNEL OWNS `pins` until the last CQE. */
PyObject *tn_start_batch(PyObject *self, PyObject *args)
{
    struct tn_operation *operation = (struct tn_operation *)self;
    PyObject *file, *pins;
    if (!PyArg_ParseTuple(args, "OO", &file, &pins))
        return NULL;
    PyObject *task = tn_current_task(operation->engine);
    if (!task)
        abandon(operation);
    if (!task || start(operation, task, file == Py_None ? NULL : file)) {
        Py_XDECREF(task);
        return NULL;
    }
    operation->pins = tn_new_ref(pins);
    Py_RETURN_NONE;
}

/* Writes the SQEs. -1: an offset is out of range, which Python says better. */
static int write_entries(PyObject *self, struct tn_operation *operation, int opcode,
                         const struct lent *lent, const struct offsets *offsets)
{
    struct tn_handle *handle = (struct tn_handle *)self;
    struct tn_queue *queue = operation->engine->queue;
    int place = tn_place_of(operation->engine, lent); /* until it is closed, by another task */
    return tn_core.batch_transfers(queue->ring, queue->tail, operation->batch,
                                   (uint8_t)(place < 0 ? opcode : TN_FIXED(opcode)), handle->fixed,
                                   handle->number, (uintptr_t)lent->start,
                                   (uint32_t)(lent->nbytes / offsets->count),
                                   (uint16_t)(place < 0 ? 0 : place), offsets->first);
}

/* NULL: nothing has begun, and there may be an exception. */
static struct tn_operation *begin(PyObject *self, int opcode, const struct lent *lent,
                                  const struct offsets *offsets)
{
    struct tn_engine *engine = tn_engine_of(self);
    PyObject *task = engine ? tn_current_task(engine) : NULL;
    struct tn_operation *operation = task ? take_record(self, engine, offsets->count) : NULL;
    if (!operation || write_entries(self, operation, opcode, lent, offsets) ||
        start(operation, task, self)) {
        Py_XDECREF(task);
        Py_XDECREF(operation);
        return NULL;
    }
    operation->strict = 1;
    tn_keep(operation, lent);
    return operation;
}

/* (opcode, buffer, offsets): equal parts of the buffer, each at its offset. */
PyObject *tn_begin_many(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct lent lent;
    struct offsets offsets;
    long long opcode;
    if (nargs != 3 || !tn_number(args[0], TN_OP_READ, TN_OP_WRITE, &opcode) ||
        !tn_lend(args[1], opcode == TN_OP_READ ? PyBUF_WRITABLE : PyBUF_SIMPLE, 1, &lent))
        Py_RETURN_NONE;
    struct tn_operation *operation = NULL;
    if (get_offsets(args[2], &offsets)) {
        if (offsets.count && !(lent.nbytes % offsets.count))
            operation = begin(self, (int)opcode, &lent, &offsets);
        let_go(&offsets);
    }
    if (operation)
        return tn_awaitable(operation, TN_BATCH, 1);
    tn_take_back(&lent);
    return tn_nothing();
}
