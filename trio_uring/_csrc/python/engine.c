/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The engine of a run: how operations begin, and how one is finished in place.
 *
 * Names of Trio's that are used here are listed in _hot.py, which checks them.
 */
#include "native.h"

PyTypeObject *tn_engine_type;

/* -- beginning ------------------------------------------------------------------------------------ */

static PyObject *publicly_current_task(struct tn_engine *engine)
{
    PyObject *task = PyObject_CallFunctionObjArgs(engine->current_task, NULL);
    PyObject *token = task ? PyObject_CallFunctionObjArgs(engine->current_token, NULL) : NULL;
    Py_XDECREF(token);
    if (token && token == engine->token && tn_is_none(engine->failure))
        return task;
    Py_XDECREF(task);
    return token ? tn_call_method(engine, tn_str_current_task) : NULL; /* raises what is wrong */
}

PyObject *tn_current_task(struct tn_engine *engine)
{
    if (!engine->runner)
        return publicly_current_task(engine);
    PyObject *task = NULL;
    if (PyThread_get_thread_ident() == engine->thread)
        task = PyDict_GetItemWithError(engine->context, tn_str_task);
    PyObject *runner = task ? PyObject_GetAttr(task, tn_str__runner) : NULL;
    Py_XDECREF(runner);
    if (runner && runner == engine->runner)
        return tn_new_ref(task);
    return PyErr_Occurred() ? NULL : tn_call_method(engine, tn_str_current_task); /* raises why not */
}

static struct tn_operation *free_record(struct tn_engine *engine)
{
    if (engine->pool_count)
        return engine->pool[--engine->pool_count];
    return (struct tn_operation *)tn_call_method(engine, tn_str__new_record);
}

/* An operation that has begun, and whose SQE is none: as if it had not. Keeps the exception. */
void tn_abandon(struct tn_operation *operation)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *file = tn_is_none(operation->file) ? NULL : tn_new_ref(operation->file);
    tn_recycle(operation);
    Py_DECREF(operation);
    if (file && tn_operation_ended(file))
        PyErr_WriteUnraisable(file);
    Py_XDECREF(file);
    PyErr_Restore(type, value, traceback);
}

/* Whether there is an entry; else an exception. Python finds out what is wrong. */
static int has_room(struct tn_engine *engine)
{
    struct tn_queue *queue = engine->queue;
    if (queue->tail == queue->limit && tn_tell(engine, tn_str__make_room))
        return 0;
    if (queue->sqes && queue->tail != queue->limit)
        return 1;
    PyErr_SetString(PyExc_RuntimeError, "the ring is closed");
    return 0;
}

/* What ran since it was looked at may have closed it, and its slot may be another file's. */
static int is_open(PyObject *file)
{
    if (!file || !PyObject_TypeCheck(file, tn_handle_type) || ((struct tn_handle *)file)->slot >= 0)
        return 1;
    if (!tn_tell(file, tn_str__checked_slot))
        PyErr_SetString(PyExc_SystemError, "a closed handle has a slot");
    return 0;
}

/* What may run other code comes first: that may take entries, too. */
struct tn_operation *tn_begin(struct tn_engine *engine, PyObject *file, struct tu_sqe **sqe)
{
    struct tn_queue *queue = engine->queue;
    PyObject *task = tn_current_task(engine);
    struct tn_operation *operation = task ? free_record(engine) : NULL;
    if (!operation) {
        Py_XDECREF(task);
        return NULL;
    }
    operation->task = task;
    if (file && !tn_operation_began(file))
        operation->file = tn_new_ref(file);
    if ((file && !operation->file) || !has_room(engine) || !is_open(file)) {
        tn_abandon(operation);
        return NULL;
    }
    operation->position = queue->tail++;
    *sqe = &queue->sqes[operation->position & queue->mask];
    return operation;
}

/* begin_record(file) -> operation: its SQE is at operation.position, and is a NOP. */
static PyObject *begin_record(PyObject *self, PyObject *file)
{
    struct tu_sqe *sqe;
    return (PyObject *)tn_begin((struct tn_engine *)self, file == Py_None ? NULL : file, &sqe);
}

/* A field of an SQE: 0, or -1 with an exception. */
static int field(PyObject *object, int64_t min, uint64_t max, uint64_t *value)
{
    PyObject *number = PyNumber_Index(object);
    if (!number)
        return -1;
    *value = PyLong_AsUnsignedLongLong(number);
    int fits = !PyErr_Occurred() && *value <= max;
    if (!fits && min) {
        PyErr_Clear();
        long long negative = PyLong_AsLongLong(number);
        fits = !PyErr_Occurred() && negative >= min && negative < 0;
        *value = (uint64_t)negative;
    }
    Py_DECREF(number);
    if (fits)
        return 0;
    PyErr_Clear();
    PyErr_Format(PyExc_ValueError, "an argument does not fit its field of the entry: %R", object);
    return -1;
}

/* An SQE as both of the next functions take it: opcode, flags, fd, offset, address, length, op_flags,
 * file_index. 0, or -1 with an exception. */
static int parse_entry(PyObject *const *args, struct tu_sqe *entry)
{
    static const uint64_t max[] = {UINT8_MAX, UINT8_MAX, INT32_MAX, UINT64_MAX, UINT64_MAX,
                                   UINT32_MAX, UINT32_MAX, UINT32_MAX};
    uint64_t values[8];
    for (int i = 0; i < 8; i++)
        if (field(args[i], i == 2 ? INT32_MIN : 0, max[i], &values[i])) /* AT_FDCWD is negative */
            return -1;
    *entry = (struct tu_sqe){.opcode = (uint8_t)values[0], .flags = (uint8_t)values[1],
                             .fd = (int32_t)values[2], .off = values[3], .addr = values[4],
                             .len = (uint32_t)values[5], .op_flags = (uint32_t)values[6],
                             .file_index = (uint32_t)values[7]};
    return 0;
}

/* For records that are no operation of a task: a multishot, an accept ahead. */
static PyObject *write_entry(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct tn_engine *engine = (struct tn_engine *)self;
    struct tn_queue *queue = engine->queue;
    struct tu_sqe entry;
    uint64_t user_data;
    if (nargs != 9) {
        PyErr_SetString(PyExc_TypeError, "write_entry() takes 9 arguments");
        return NULL;
    }
    if (parse_entry(args, &entry) || field(args[8], 0, UINT64_MAX, &user_data))
        return NULL;
    if (!has_room(engine))
        return NULL;
    entry.user_data = user_data;
    queue->sqes[queue->tail++ & queue->mask] = entry;
    Py_RETURN_NONE;
}

/* begin_entry(file, opcode, flags, fd, offset, address, length, op_flags, file_index, pins) */
static PyObject *begin_entry(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct tu_sqe *sqe, entry;
    if (nargs != 10) {
        PyErr_SetString(PyExc_TypeError, "begin_entry() takes 10 arguments");
        return NULL;
    }
    if (parse_entry(args + 1, &entry))
        return NULL;
    struct tn_operation *operation =
        tn_begin((struct tn_engine *)self, args[0] == Py_None ? NULL : args[0], &sqe);
    if (!operation)
        return NULL;
    entry.user_data = operation->user_data;
    *sqe = entry;
    operation->pins = tn_new_ref(args[9]);
    return (PyObject *)operation;
}

/* Gives a record that is no single operation an index, and returns its user_data; 0: an exception. */
uint64_t tn_add_record(struct tn_engine *engine, PyObject *record)
{
    Py_ssize_t last = PyList_Size(engine->free_indices) - 1;
    uint64_t index = (uint64_t)PyList_Size(engine->records);
    if (last < 0) {
        if (PyList_Append(engine->records, record))
            return 0;
    } else {
        index = PyLong_AsUnsignedLongLong(PyList_GetItem(engine->free_indices, last));
        PyList_SetItem(engine->records, (Py_ssize_t)index, tn_new_ref(record));
        if (PyList_SetSlice(engine->free_indices, last, last + 1, NULL))
            return 0;
    }
    engine->generation = (engine->generation + TN_GENERATION) & TN_USER_DATA_MASK;
    return engine->generation | index;
}

/* Its final CQE was seen. -1: an exception, and the index is not used again. */
int tn_remove_record(struct tn_engine *engine, uint64_t user_data)
{
    PyObject *index = PyLong_FromUnsignedLongLong(user_data & TN_INDEX_MASK);
    PyObject *ignored = PyList_GetItem(engine->records, 0);
    PyList_SetItem(engine->records, (Py_ssize_t)(user_data & TN_INDEX_MASK), tn_new_ref(ignored));
    int rc = index ? PyList_Append(engine->free_indices, index) : -1;
    Py_XDECREF(index);
    return rc;
}

static PyObject *add_record(PyObject *self, PyObject *record)
{
    uint64_t user_data = tn_add_record((struct tn_engine *)self, record);
    PyObject *number = user_data ? PyLong_FromUnsignedLongLong(user_data) : NULL;
    int rc = number ? PyObject_SetAttr(record, tn_str_user_data, number) : -1;
    Py_XDECREF(number);
    return rc ? NULL : tn_new_ref(Py_None);
}

static PyObject *remove_record(PyObject *self, PyObject *record)
{
    PyObject *number = PyObject_GetAttr(record, tn_str_user_data);
    uint64_t user_data = number ? PyLong_AsUnsignedLongLong(number) : 0;
    Py_XDECREF(number);
    PyObject *none = PyErr_Occurred() ? NULL : PyLong_FromLong(0);
    int rc = !none || tn_remove_record((struct tn_engine *)self, user_data) ||
             PyObject_SetAttr(record, tn_str_user_data, none);
    Py_XDECREF(none);
    return rc ? NULL : tn_new_ref(Py_None);
}

/* -- finishing in place --------------------------------------------------------------------------- */

static int may_finish_now(struct tn_engine *engine, PyObject *task)
{
    int others = tn_is_true(engine->runner, tn_str_runq);
    if (others)
        return others < 0 ? -1 : 0;
    PyObject *status = PyObject_GetAttr(task, tn_str__cancel_status);
    int cancelled = tn_is_true(status, tn_str_effectively_cancelled);
    Py_XDECREF(status);
    if (cancelled)
        return cancelled < 0 ? -1 : 0;
    int ki = tn_is_true(engine->runner, tn_str_ki_pending);
    if (ki <= 0)
        return ki < 0 ? -1 : 1;
    PyObject *main_task = PyObject_GetAttr(engine->runner, tn_str_main_task);
    Py_XDECREF(main_task);
    return !main_task ? -1 : main_task != task;
}

static int hand_over(struct tn_engine *engine)
{
    if (!tn_is_empty(engine->cancels)) {
        PyObject *done = tn_call_method(engine, tn_str__hand_over_quietly);
        int rc = done ? PyObject_IsTrue(done) : -1;
        Py_XDECREF(done);
        return rc;
    }
    if (tn_buffers_are_back(engine))
        tn_give_back((struct tn_buffers *)engine->buffers);
    return 1;
}

int tn_finished_now(struct tn_engine *engine, struct tn_operation *operation)
{
    struct tn_queue *queue = engine->queue;
    PyObject *task = operation->task;
    if (engine->prompt_left <= 0 || !engine->runner || !queue->sqes)
        return 0;
    engine->prompt_left--;
    /* An error changes nothing: the next pass tries again, and tells. */
    if (may_finish_now(engine, task) <= 0 || hand_over(engine) <= 0) {
        PyErr_Clear();
        engine->prompt_left = 0;
        return 0;
    }
    int64_t res;
    uint32_t tail = queue->tail;
    Py_BEGIN_ALLOW_THREADS
    res = tn_core.try_one(queue->ring, tail, operation->user_data);
    Py_END_ALLOW_THREADS
    engine->flushed = queue->ring->flushed;
    if (res == TU_RES_MIN) {
        /* It takes its time, or somebody else can run too, or nothing was submitted. */
        engine->prompt_left = 0;
        return 0;
    }
    engine->completed++;
    operation->res = res;
    operation->flags = 0;
    operation->task = NULL;
    int rc = tn_is_none(operation->file) ? 0 : tn_operation_ended(operation->file);
    if (!rc)
        rc = tn_count_checkpoint(task);
    if (rc) /* it has completed all the same */
        PyErr_WriteUnraisable(task);
    Py_DECREF(task);
    return 1;
}

static PyObject *engine_wait(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    (void)self;
    if (nargs < 1 || nargs > 2 || !PyObject_TypeCheck(args[0], tn_operation_type)) {
        PyErr_SetString(PyExc_TypeError, "an operation is to be waited for");
        return NULL;
    }
    struct tn_operation *operation = (struct tn_operation *)args[0];
    return tn_awaitable(tn_new_ref(operation), operation->batch ? TN_BATCH : operation->kind,
                        nargs == 2 && args[1] == Py_True);
}

/* -- the object ----------------------------------------------------------------------------------- */

static PyObject *attach(PyObject *self, PyObject *args)
{
    struct tn_engine *engine = (struct tn_engine *)self;
    PyObject *queue;
    if (!PyArg_ParseTuple(args, "OI", &queue, &engine->cqes_max))
        return NULL;
    PyObject *old = (PyObject *)engine->queue;
    engine->queue = tn_new_ref(queue);
    Py_XDECREF(old);
    engine->queue->ring->half_bit = TN_SEND_BIT;
    engine->thread = PyThread_get_thread_ident();
    PyMem_Free(engine->cqes);
    engine->cqes = PyMem_Calloc(engine->cqes_max, sizeof(*engine->cqes));
    PyMem_Free(engine->woken);
    engine->woken = PyMem_Calloc(engine->cqes_max, sizeof(*engine->woken));
    if (!engine->cqes || !engine->woken)
        return PyErr_NoMemory();
    engine->luck = 1;
    Py_RETURN_NONE;
}

#define ENGINE_OBJECTS(X)                                                                         \
    X("_context", context) X("_runner", runner) X("_current_task", current_task)                  \
    X("_current_token", current_token) X("_sleep", sleep) X("_reschedule", reschedule)            \
    X("token", token) X("failure", failure) X("records", records) X("buffers", buffers)           \
    X("_cancels", cancels) X("_cancels_again", cancels_again)                                     \
    X("cancelled_chains", cancelled_chains) X("_stash", stash) X("reclaim", reclaim)              \
    X("_free_indices", free_indices) X("spare_batch", spare_batch) X("files", files) X("_message_type", message_type)

static int engine_traverse(PyObject *self, visitproc visit, void *arg)
{
    struct tn_engine *engine = (struct tn_engine *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(engine->queue);
#define VISIT(name, member) Py_VISIT(engine->member);
    ENGINE_OBJECTS(VISIT)
#undef VISIT
    for (Py_ssize_t i = 0; i < engine->pool_count; i++)
        Py_VISIT(engine->pool[i]);
    return 0;
}

static int engine_clear(PyObject *self)
{
    struct tn_engine *engine = (struct tn_engine *)self;
    /* Not the queue: records that are left may ask for it. */
#define CLEAR(name, member) Py_CLEAR(engine->member);
    ENGINE_OBJECTS(CLEAR)
#undef CLEAR
    while (engine->pool_count)
        Py_DECREF(engine->pool[--engine->pool_count]);
    return 0;
}

static void engine_dealloc(PyObject *self)
{
    struct tn_engine *engine = (struct tn_engine *)self;
    PyObject_GC_UnTrack(self);
    engine_clear(self);
    Py_CLEAR(engine->queue);
    PyMem_Free(engine->pool);
    PyMem_Free(engine->cqes);
    PyMem_Free(engine->woken);
    tn_free(self);
}

static PyMemberDef engine_members[] = {
#define MEMBER(name, member) {name, T_OBJECT, offsetof(struct tn_engine, member), 0, NULL},
    ENGINE_OBJECTS(MEMBER)
#undef MEMBER
    {"_pool_count", T_PYSSIZET, offsetof(struct tn_engine, pool_count), READONLY, NULL},
    {"_flushed", T_UINT, offsetof(struct tn_engine, flushed), 0, NULL},
    {"_prompt_left", T_INT, offsetof(struct tn_engine, prompt_left), 0, NULL},
    {"_passes_alone", T_INT, offsetof(struct tn_engine, passes_alone), 0, NULL},
    {"clock_jumps", T_BOOL, offsetof(struct tn_engine, clock_jumps), 0, NULL},
    {"_lets_go_late", T_BOOL, offsetof(struct tn_engine, lets_go_late), 0, NULL},
    {"_may_step", T_BOOL, offsetof(struct tn_engine, may_step), 0, NULL},
    {"completed", T_LONGLONG, offsetof(struct tn_engine, completed), 0, NULL},
    {"overflow_count", T_LONGLONG, offsetof(struct tn_engine, overflow_count), 0, NULL},
    {"sent", T_LONGLONG, offsetof(struct tn_engine, sent), 0, NULL},
    {"_generation", T_ULONGLONG, offsetof(struct tn_engine, generation), 0, NULL},
    {NULL},
};

#define FAST(function) (PyCFunction)(void *)function, METH_FASTCALL
static PyMethodDef engine_methods[] = {
    {"_attach", attach, METH_VARARGS, PyDoc_STR("The queue, and completions of a pass at the most.")},
    {"add_record", add_record, METH_O,
     PyDoc_STR("Gives a multishot or its like an index and a ``user_data``.")},
    {"remove_record", remove_record, METH_O,
     PyDoc_STR("Its final CQE was seen, and there will be no further one.")},
    {"begin_record", begin_record, METH_O, PyDoc_STR("A record of the current task, and a NOP.")},
    {"begin_entry", FAST(begin_entry),
     PyDoc_STR("(file, opcode, flags, fd, offset, address, length, op_flags, file_index, pins)")},
    {"take_completions", tn_take_completions, METH_NOARGS,
     PyDoc_STR("Submits, and wakes the tasks of what has completed; how many, or None: by Python.")},
    {"pass_begins", tn_pass_begins, METH_NOARGS,
     PyDoc_STR("Decides whether tasks may finish operations in place, in the pass that begins.")},
    {"write_entry", FAST(write_entry),
     PyDoc_STR("(opcode, flags, fd, offset, address, length, op_flags, file_index, user_data)")},
    {"wait", FAST(engine_wait), PyDoc_STR("(operation, prompt=False): what a task awaits. It sleeps\n"
                                          "until the operation has ended, and gets its result, or\n"
                                          "what ``unwrap`` raises. ``prompt``: it mostly completes\n"
                                          "as it is submitted, as a read of what is cached does.")},
    {NULL},
};

static PyType_Slot engine_slots[] = {
    {Py_tp_doc, "The members of an engine."},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, engine_dealloc},
    {Py_tp_traverse, engine_traverse},
    {Py_tp_clear, engine_clear},
    {Py_tp_members, engine_members},
    {Py_tp_methods, engine_methods},
    {0, NULL},
};

static PyType_Spec engine_spec = {
    "trio_uring._native.Engine", sizeof(struct tn_engine), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, engine_slots};

int tn_add_engine(PyObject *module)
{
    tn_engine_type = (PyTypeObject *)tn_make_type(module, &engine_spec);
    return tn_engine_type ? 0 : -1;
}
