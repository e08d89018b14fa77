/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Steps of tasks that a completion has woken: run at once, in the usual case, and not by Trio's loop.
 *
 * The usual case: the task goes on to the next thing that it waits for, or ends. If it yields anything
 * else it is put where Trio's loop takes it in the same pass, and the loop sees it yield that.
 *
 * Names of Trio's that are used here are listed in _hot.py, which checks them and the loop.
 */
#include "native.h"

/* -- what Trio's loop does ------------------------------------------------------------------------ */

static PyObject *yield_again(PyObject *message, PyObject *Py_UNUSED(sent))
{
    return tn_new_ref(message);
}

static PyMethodDef yield_def = {"yield_again", yield_again, METH_O, NULL};

/* The loop takes the task's next step to be that. */
static int yields(struct tn_engine *engine, PyObject *task, PyObject *message)
{
    PyObject *again = PyCFunction_NewEx(&yield_def, message, NULL);
    int rc = !again || PyObject_SetAttr(task, tn_str__next_send_fn, again) ||
             PyObject_SetAttr(task, tn_str__next_send, Py_None) || tn_append(engine, task);
    Py_XDECREF(again);
    return rc ? -1 : 0;
}

/* It has returned or raised: at once, so that nobody finds a task that has ended among the others. */
static int ends(struct tn_engine *engine, PyObject *task)
{
    PyObject *type, *exc, *traceback;
    PyErr_Fetch(&type, &exc, &traceback);
    PyErr_NormalizeException(&type, &exc, &traceback);
    if (traceback)
        PyException_SetTraceback(exc, traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    PyObject *none = PyObject_CallMethodObjArgs((PyObject *)engine, tn_str__task_ended, task, exc, NULL);
    Py_XDECREF(exc);
    Py_XDECREF(none);
    return none ? 0 : -1;
}

/* -- a step --------------------------------------------------------------------------------------- */

static int add_one(PyObject *object, PyObject *name)
{
    PyObject *old = PyObject_GetAttr(object, name);
    PyObject *sum = old ? PyNumber_Add(old, tn_one) : NULL;
    int rc = sum ? PyObject_SetAttr(object, name, sum) : -1;
    Py_XDECREF(old);
    Py_XDECREF(sum);
    return rc;
}

int tn_count_checkpoint(PyObject *task)
{
    return add_one(task, tn_str__schedule_points) || add_one(task, tn_str__cancel_points) ? -1 : 0;
}

static int is_main(struct tn_engine *engine, PyObject *task)
{
    PyObject *main_task = PyObject_GetAttr(engine->runner, tn_str_main_task);
    Py_XDECREF(main_task);
    return main_task ? main_task == task : -1;
}

/* Ctrl-C first: it is outside of all cancel scopes. */
static int interrupt(struct tn_engine *engine, PyObject *task)
{
    int ki = tn_is_true(engine->runner, tn_str_ki_pending);
    if (ki > 0)
        ki = is_main(engine, task);
    if (ki > 0)
        ki = tn_tell(task, tn_str__attempt_delivery_of_pending_ki);
    if (ki < 0)
        return -1;
    PyObject *status = PyObject_GetAttr(task, tn_str__cancel_status);
    int cancelled = tn_is_true(status, tn_str_effectively_cancelled);
    Py_XDECREF(status);
    return cancelled > 0 ? tn_tell(task, tn_str__attempt_delivery_of_any_pending_cancel) : cancelled;
}

static int waits(struct tn_engine *engine, PyObject *task, PyObject *message)
{
    PyObject *abort = PyObject_GetAttr(message, tn_str_abort_func);
    int rc = !abort || tn_count_checkpoint(task) || PyObject_SetAttr(task, tn_str__abort_func, abort);
    Py_XDECREF(abort);
    return rc ? -1 : interrupt(engine, task);
}

static int stepped(struct tn_engine *engine, PyObject *task, PyObject *message)
{
    if (!message)
        return ends(engine, task);
    return (PyObject *)Py_TYPE(message) == engine->message_type ? waits(engine, task, message)
                                                                : yields(engine, task, message);
}

static int run(struct tn_engine *engine, PyObject *task, PyObject *value)
{
    PyObject *coro = PyObject_GetAttr(task, tn_str_coro);
    PyObject *send = coro ? PyObject_GetAttr(coro, tn_str_send) : NULL;
    PyObject *context = send ? PyObject_GetAttr(task, tn_str_context) : NULL;
    int rc = -1;
    if (context) {
        PyObject *message = PyObject_CallMethodObjArgs(context, tn_str_run, send, value, NULL);
        rc = stepped(engine, task, message);
        Py_XDECREF(message);
    }
    Py_XDECREF(coro);
    Py_XDECREF(send);
    Py_XDECREF(context);
    return rc;
}

static int step(struct tn_engine *engine, PyObject *task, PyObject *value)
{
    if (PyObject_SetAttr(task, tn_str__next_send_fn, Py_None) ||
        PyDict_SetItem(engine->context, tn_str_task, task))
        return -1;
    int rc = run(engine, task, value);
    return PyDict_DelItem(engine->context, tn_str_task) ? -1 : rc;
}

/* -- those of a pass ------------------------------------------------------------------------------ */

/* Takes over the task. -1: an exception. */
int tn_will_step(struct tn_engine *engine, PyObject *task, struct tn_operation *operation)
{
    engine->woken[engine->woken_count++] = (struct tn_woken){task, tn_new_ref(operation)};
    /* Not None: so Trio knows a task that is to run, and refuses to wake it once more. */
    return PyObject_SetAttr(task, tn_str__next_send_fn, (PyObject *)operation);
}

/* As Trio does: in the order in which they were woken, or in the reverse, at random. */
static int is_reversed(struct tn_engine *engine)
{
    engine->luck = engine->luck * 1664525 + 1013904223;
    return engine->luck >> 31;
}

/* A step may have added an instrument that watches the others: Trio's loop runs them, then. */
static int is_watched_now(struct tn_engine *engine, PyObject *task)
{
    enum tn_watched watched = tn_watched(engine);
    if (watched == TN_NOTHING)
        return 0;
    PyObject *none = (int)watched < 0 ? NULL : PyObject_CallMethodObjArgs(
        (PyObject *)engine, tn_str__tell_of_step, task, NULL);
    Py_XDECREF(none);
    return none ? 1 : -1;
}

/* `hooks`: a dictionary of what instruments look at. */
int tn_steps(struct tn_engine *engine, PyObject *hooks, int rc)
{
    uint32_t count = engine->woken_count;
    int reversed = is_reversed(engine), watched = 0;
    Py_ssize_t size = hooks ? PyObject_Size(hooks) : 0;
    for (uint32_t i = 0; i < count; i++) {
        struct tn_woken *woken = &engine->woken[reversed ? count - 1 - i : i];
        if (!rc && watched) {
            rc = tn_enter_in_queue(woken->task, woken->operation);
        } else if (!rc) { /* else Trio is breaking down, and with it the task */
            rc = step(engine, woken->task, (PyObject *)woken->operation);
            if (!rc && PyObject_Size(hooks) != size) {
                size = PyObject_Size(hooks);
                watched = is_watched_now(engine, woken->task);
                rc = watched < 0 ? -1 : 0;
            }
        }
        Py_DECREF(woken->task);
        Py_DECREF(woken->operation);
    }
    engine->woken_count = 0;
    return rc;
}
