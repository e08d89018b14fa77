/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * A pass of the loop: what the adopted driver does in it.
 *
 * Names of Trio's that are used here are listed in _hot.py, which checks them.
 */
#include <errno.h>
#include <time.h>

#include "native.h"

/* -- taking completions --------------------------------------------------------------------------- */

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static int is_temporary(int code)
{
    return code == -EINTR || code == -ETIME || code == -EBUSY || code == -EAGAIN;
}

/* Raises what the code of io_uring_enter means. */
static int refused(struct tn_engine *engine, int code)
{
    PyObject *ring = PyObject_GetAttr((PyObject *)engine, tn_str_ring);
    PyObject *none = ring ? PyObject_CallMethod(ring, "check", "is", code, "io_uring_enter") : NULL;
    Py_XDECREF(ring);
    Py_XDECREF(none);
    return -1;
}

static int enter(struct tn_engine *engine, int64_t timeout_ns)
{
    struct tn_queue *queue = engine->queue;
    uint32_t tail = queue->tail;
    int count;
    Py_BEGIN_ALLOW_THREADS
    count = tn_core.submit_and_copy(queue->ring, tail, timeout_ns ? 1 : 0, timeout_ns, engine->cqes,
                                    engine->cqes_max);
    Py_END_ALLOW_THREADS
    engine->flushed = tail;
    return count;
}

/* How many completions are in engine->cqes; -1: an exception. */
static int take_turn(struct tn_engine *engine, int64_t timeout_ns)
{
    if (tn_buffers_are_back(engine))
        tn_give_back((struct tn_buffers *)engine->buffers);
    int64_t deadline = timeout_ns ? now_ns() + timeout_ns : 0;
    for (;;) {
        int count = enter(engine, timeout_ns);
        if (count > 0) {
            engine->overflow_count += count == (int)engine->cqes_max;
            engine->completed += count;
            return count;
        }
        if (count < 0 && !is_temporary(count))
            return refused(engine, count);
        /* io_uring_enter hides ETIME and EINTR once it has submitted something: ask for signals anyhow,
         * and the clock. */
        if (PyErr_CheckSignals())
            return -1;
        if (!timeout_ns || (timeout_ns = deadline - now_ns()) <= 0)
            return 0;
    }
}

/* -- handing them out ----------------------------------------------------------------------------- */

int tn_append(struct tn_engine *engine, PyObject *task)
{
    PyObject *runq = PyObject_GetAttr(engine->runner, tn_str_runq);
    PyObject *none = runq ? PyObject_CallMethodObjArgs(runq, tn_str_append, task, NULL) : NULL;
    Py_XDECREF(runq);
    Py_XDECREF(none);
    return none ? 0 : -1;
}

int tn_enter_in_queue(PyObject *task, struct tn_operation *operation)
{
    PyObject *coro = PyObject_GetAttr(task, tn_str_coro);
    PyObject *send = coro ? PyObject_GetAttr(coro, tn_str_send) : NULL;
    int rc = !send || PyObject_SetAttr(task, tn_str__next_send_fn, send) ||
             PyObject_SetAttr(task, tn_str__next_send, (PyObject *)operation) ||
             tn_append(operation->engine, task);
    Py_XDECREF(coro);
    Py_XDECREF(send);
    return rc ? -1 : 0;
}

static int wake_publicly(struct tn_operation *operation)
{
    PyObject *none = PyObject_CallFunctionObjArgs(operation->engine->reschedule, operation->task,
                                                  operation, NULL);
    if (!none)
        return -1; /* it waits, and Engine.fail wakes it */
    Py_DECREF(none);
    Py_CLEAR(operation->task);
    return 0;
}

/* What Runner.reschedule does, written out. */
static int wake(struct tn_operation *operation)
{
    struct tn_engine *engine = operation->engine;
    if (!engine->runner)
        return wake_publicly(operation);
    PyObject *task = operation->task;
    operation->task = NULL;
    if (PyObject_SetAttr(task, tn_str__abort_func, Py_None) ||
        PyObject_SetAttr(task, tn_str_custom_sleep_data, Py_None)) {
        Py_DECREF(task);
        return -1;
    }
    if (engine->steps)
        return tn_will_step(engine, task, operation);
    int rc = tn_enter_in_queue(task, operation);
    Py_DECREF(task);
    return rc;
}

static int hand_on(struct tn_engine *engine, PyObject *record, const struct tu_cqe *cqe)
{
    PyObject *none = PyObject_CallMethod((PyObject *)engine, "complete", "OKiI", record,
                                         (unsigned long long)cqe->user_data, cqe->res, cqe->flags);
    Py_XDECREF(none);
    return none ? 0 : -1;
}

/* A task waits for it, and it has a result and no more to come. */
static int is_plain(PyObject *record, const struct tu_cqe *cqe)
{
    const struct tn_operation *operation = (const struct tn_operation *)record;
    return PyObject_TypeCheck(record, tn_operation_type) && operation->user_data == cqe->user_data &&
           !tn_is_none(operation->task) && cqe->res >= 0 && !(cqe->flags & TN_F_MORE);
}

static int end(struct tn_operation *operation, const struct tu_cqe *cqe)
{
    operation->res = cqe->res;
    operation->flags = cqe->flags;
    if (!tn_is_none(operation->file) && tn_operation_ended(operation->file))
        return -1;
    return wake(operation);
}

/* `watched`: Python wakes the task, and tells whoever wants to know. */
static int hand_out_one(struct tn_engine *engine, const struct tu_cqe *cqe, int watched)
{
    PyObject *record = PyList_GetItem(engine->records, (Py_ssize_t)(cqe->user_data & TN_INDEX_MASK));
    if (!record)
        return -1;
    Py_INCREF(record);
    int rc = !watched && is_plain(record, cqe) ? end((struct tn_operation *)record, cqe)
                                               : hand_on(engine, record, cqe);
    Py_DECREF(record);
    return rc;
}

/* How many tasks Trio has in its queue; -1: an exception. */
static Py_ssize_t can_run(struct tn_engine *engine)
{
    PyObject *runq = PyObject_GetAttr(engine->runner, tn_str_runq);
    Py_ssize_t count = runq ? PyObject_Size(runq) : -1;
    Py_XDECREF(runq);
    return count;
}

/* Finishing in place is best for one task, and keeps many from being served together: a server of many
 * must not be taken for one that is alone. */
static int pass_begins(struct tn_engine *engine)
{
    Py_ssize_t runnable = can_run(engine);
    if (runnable >= 0 && runnable + engine->woken_count > 1) {
        engine->passes_alone = engine->prompt_left = 0;
    } else {
        engine->passes_alone += engine->passes_alone <= TN_ALONE_MIN;
        engine->prompt_left = engine->passes_alone > TN_ALONE_MIN ? TN_PROMPT_MAX : 0;
    }
    return runnable < 0 ? -1 : 0;
}

/* Those that steps have started or woken run in the same pass, and Trio takes them out of its queue
 * before it runs them: none of them finds another one there. */
static int pass_goes_on(struct tn_engine *engine)
{
    Py_ssize_t runnable = can_run(engine);
    if (runnable > 1)
        engine->passes_alone = engine->prompt_left = 0;
    return runnable < 0 ? -1 : 0;
}

/* For passes that Python makes. */
PyObject *tn_pass_begins(PyObject *engine, PyObject *Py_UNUSED(none))
{
    return pass_begins((struct tn_engine *)engine) ? NULL : tn_new_ref(Py_None);
}

/* A UserDict in Trio, which would look in it in Python; a dict in older releases. */
static PyObject *hooks_of(struct tn_engine *engine)
{
    PyObject *instruments = PyObject_GetAttr(engine->runner, tn_str_instruments);
    if (!instruments || PyDict_Check(instruments))
        return instruments;
    PyObject *data = PyObject_GetAttr(instruments, tn_str_data);
    Py_DECREF(instruments);
    return data;
}

static enum tn_watched watched(PyObject *hooks)
{
    PyObject *of_steps[] = {tn_str_before_task_step, tn_str_after_task_step, tn_str_before_io_wait,
                            tn_str_after_io_wait};
    int rc = hooks ? PySequence_Contains(hooks, tn_str_task_scheduled) : -1;
    if (rc)
        return rc < 0 ? TN_UNKNOWN : TN_WAKING;
    for (int i = 0; !rc && i < 4; i++)
        rc = PySequence_Contains(hooks, of_steps[i]);
    return rc < 0 ? TN_UNKNOWN : rc ? TN_STEPS : TN_NOTHING;
}

enum tn_watched tn_watched(struct tn_engine *engine)
{
    PyObject *hooks = hooks_of(engine);
    enum tn_watched found = watched(hooks);
    Py_XDECREF(hooks);
    return found;
}

static int hand_out(struct tn_engine *engine, long count)
{
    PyObject *hooks = count ? hooks_of(engine) : NULL;
    enum tn_watched seen = count ? watched(hooks) : TN_NOTHING;
    int rc = seen == TN_UNKNOWN ? -1 : 0;
    engine->steps = engine->may_step && seen == TN_NOTHING && !engine->woken_count;
    for (long i = 0; !rc && i < count; i++)
        rc = hand_out_one(engine, &engine->cqes[i], seen == TN_WAKING);
    /* Here and not before the wait: who gets a slot now must not sleep through it. */
    if (!rc && !tn_is_empty(engine->reclaim))
        rc = tn_tell(engine, tn_str_reclaim_dropped);
    if (!rc)
        rc = pass_begins(engine);
    if (engine->woken_count) {
        rc = tn_steps(engine, hooks, rc);
        if (!rc)
            rc = pass_goes_on(engine);
    }
    Py_XDECREF(hooks);
    return rc;
}

static int needs_python(const struct tn_engine *engine)
{
    return !engine->queue->sqes || !tn_is_empty(engine->cancels) || !tn_is_empty(engine->cancels_again) ||
           !tn_is_empty(engine->cancelled_chains) || !tn_is_empty(engine->stash);
}

/* Of the hosted driver: without a wait, and with Trio's own function to wake a task. */
PyObject *tn_take_completions(PyObject *self, PyObject *Py_UNUSED(none))
{
    struct tn_engine *engine = (struct tn_engine *)self;
    if (needs_python(engine))
        Py_RETURN_NONE;
    int count = take_turn(engine, 0), rc = count < 0 ? -1 : 0;
    for (int i = 0; !rc && i < count; i++)
        rc = hand_out_one(engine, &engine->cqes[i], 0);
    if (!rc && !tn_is_empty(engine->reclaim))
        rc = tn_tell(engine, tn_str_reclaim_dropped);
    return rc ? NULL : PyLong_FromLong(count);
}

/* -- what Trio calls ------------------------------------------------------------------------------ */

static int has_work(const struct tn_engine *engine)
{
    /* The head: what the kernel did not take (EAGAIN) is submitted again. */
    return *engine->queue->ring->sq_head != engine->queue->tail || !tn_is_empty(engine->cancels) ||
           !tn_is_empty(engine->cancels_again) || !tn_is_empty(engine->stash) ||
           !tn_is_empty(engine->reclaim) || !tn_is_empty(engine->cancelled_chains);
}

static int is_idle(const struct tn_engine *engine)
{
    Py_ssize_t free = engine->pool_count + PyList_Size(engine->free_indices);
    return PyList_Size(engine->records) == TN_OWN_IDS + free;
}

/* No completion is there, and none waits for us to enter. */
static int is_silent(const struct tu_ring *ring)
{
    return *ring->cq_head == *ring->cq_tail && !(*ring->sq_flags & (TU_SQ_CQ_OVERFLOW | TU_SQ_TASKRUN));
}

static PyObject *get_events(PyObject *self, PyObject *timeout)
{
    struct tn_driver *driver = (struct tn_driver *)self;
    struct tn_engine *engine = driver->engine;
    double seconds = PyFloat_AsDouble(timeout);
    if (seconds == -1.0 && PyErr_Occurred())
        return NULL;
    if (driver->asleep && seconds <= 0)
        return PyObject_CallMethodObjArgs(driver->inner, tn_str_get_events, timeout, NULL);
    int unusual = driver->is_guest != Py_False || needs_python(engine);
    int work = !unusual && has_work(engine);
    /* A run that makes no use of its ring shall not notice it. */
    if (unusual || work || !is_idle(engine))
        driver->idle_passes = 0;
    else
        driver->idle_passes += driver->idle_passes <= TN_IDLE_MAX;
    if (unusual || driver->asleep || driver->idle_passes > TN_IDLE_MAX)
        return PyObject_CallMethodObjArgs(self, tn_str__get_events_anyhow, timeout, NULL);
    if (!work && seconds <= 0 && driver->armed == Py_True && is_silent(engine->queue->ring))
        return PyLong_FromLong(0);
    if (driver->armed != Py_True) {
        if (tn_tell(self, tn_str__arm))
            return NULL;
        /* If there was no room for it, what was taken out is not to be waited for, and comes first. */
        if (needs_python(engine))
            return PyObject_CallMethodObjArgs(self, tn_str__get_events_anyhow, timeout, NULL);
    }
    int count = take_turn(engine, (int64_t)(seconds * 1e9));
    return count < 0 ? NULL : PyLong_FromLong(count);
}

static PyObject *process_events(PyObject *self, PyObject *events)
{
    struct tn_driver *driver = (struct tn_driver *)self;
    if (!PyLong_CheckExact(events))
        return PyObject_CallMethodObjArgs(self, tn_str__process_events_anyhow, events, NULL);
    if (hand_out(driver->engine, PyLong_AsLong(events)))
        return NULL;
    if (driver->epoll_has_events == Py_True)
        return tn_call_method(self, tn_str__ask_epoll);
    Py_RETURN_NONE;
}

static int driver_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((struct tn_driver *)self)->engine);
    Py_VISIT(((struct tn_driver *)self)->inner);
    return 0;
}

static int driver_clear(PyObject *self)
{
    Py_CLEAR(((struct tn_driver *)self)->engine);
    Py_CLEAR(((struct tn_driver *)self)->inner);
    return 0;
}

static void driver_dealloc(PyObject *self)
{
    struct tn_driver *driver = (struct tn_driver *)self;
    PyObject_GC_UnTrack(self);
    driver_clear(self);
    Py_CLEAR(driver->armed);
    Py_CLEAR(driver->is_guest);
    Py_CLEAR(driver->epoll_has_events);
    tn_free(self);
}

static PyMemberDef driver_members[] = {
    {"engine", T_OBJECT, offsetof(struct tn_driver, engine), 0, NULL},
    {"_armed", T_OBJECT, offsetof(struct tn_driver, armed), 0, NULL},
    {"_is_guest", T_OBJECT, offsetof(struct tn_driver, is_guest), 0, NULL},
    {"_epoll_has_events", T_OBJECT, offsetof(struct tn_driver, epoll_has_events), 0, NULL},
    {"_inner", T_OBJECT, offsetof(struct tn_driver, inner), 0, NULL},
    {"_asleep", T_BOOL, offsetof(struct tn_driver, asleep), 0, NULL},
    {"_idle_passes", T_INT, offsetof(struct tn_driver, idle_passes), 0, NULL},
    {NULL},
};

static PyMethodDef driver_methods[] = {
    {"get_events", get_events, METH_O, PyDoc_STR("Submits and waits: what `process_events` gets.")},
    {"process_events", process_events, METH_O, PyDoc_STR("Wakes the tasks of these completions.")},
    {NULL},
};

static PyType_Slot driver_slots[] = {
    {Py_tp_doc, "The members of the adopted driver, and its passes where nothing is unusual."},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, driver_dealloc},
    {Py_tp_traverse, driver_traverse},
    {Py_tp_clear, driver_clear},
    {Py_tp_members, driver_members},
    {Py_tp_methods, driver_methods},
    {0, NULL},
};

static PyType_Spec driver_spec = {
    "trio_uring._native.Driver", sizeof(struct tn_driver), 0,
    Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC, driver_slots};

int tn_add_driver(PyObject *module)
{
    return tn_make_type(module, &driver_spec) && !PyModule_AddIntMacro(module, TN_ALONE_MIN) &&
                   !PyModule_AddIntMacro(module, TN_PROMPT_MAX) &&
                   !PyModule_AddIntMacro(module, TN_IDLE_MAX)
               ? 0 : -1;
}
