/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Steps of tasks that a completion has woken: run at once, in the usual case, and not by Trio's loop.
 *
 * The usual case: the task goes on to the next thing that it waits for. If it ends or yields anything
 * else it is put where Trio's loop takes it in the same pass, and the loop sees it do that. So it is
 * Trio that ends tasks, and that complains.
 *
 * Names of Trio's that are used here are listed in _hot.py, which checks them and the loop.
 */
#include "native.h"

/* -- what a step did, told again ------------------------------------------------------------------ */

static PyObject *yield_again(PyObject *message, PyObject *Py_UNUSED(sent))
{
    return tn_new_ref(message);
}

static PyObject *raise_again(PyObject *exc, PyObject *Py_UNUSED(sent))
{
    PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
    return NULL;
}

static PyMethodDef yield_def = {"yield_again", yield_again, METH_O, NULL};
static PyMethodDef raise_def = {"raise_again", raise_again, METH_O, NULL};

static PyObject *raised(void)
{
    PyObject *type, *exc, *traceback;
    PyErr_Fetch(&type, &exc, &traceback);
    PyErr_NormalizeException(&type, &exc, &traceback);
    if (traceback)
        PyException_SetTraceback(exc, traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return exc;
}

/* The loop takes the task's next step to be this. */
static int tell_loop(struct tn_engine *engine, PyObject *task, PyMethodDef *def, PyObject *what)
{
    PyObject *again = what ? PyCFunction_NewEx(def, what, NULL) : NULL;
    int rc = !again || PyObject_SetAttr(task, tn_str__next_send_fn, again) ||
             PyObject_SetAttr(task, tn_str__next_send, Py_None) || tn_append(engine, task);
    Py_XDECREF(again);
    return rc ? -1 : 0;
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

/* Of what the step did, another task may only know that the task waits: that must be so at once. */
static int stepped(struct tn_engine *engine, PyObject *task, PyObject *message)
{
    if (message && (PyObject *)Py_TYPE(message) == engine->message_type)
        return waits(engine, task, message);
    if (message)
        return tell_loop(engine, task, &yield_def, message);
    PyObject *exc = raised();
    int rc = tell_loop(engine, task, &raise_def, exc);
    Py_XDECREF(exc);
    return rc;
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
    if (PyDict_SetItem(engine->context, tn_str_task, task))
        return -1;
    int rc = run(engine, task, value);
    return PyDict_DelItem(engine->context, tn_str_task) ? -1 : rc;
}

/* -- those of a pass ------------------------------------------------------------------------------ */

/* Takes over the task. */
void tn_will_step(struct tn_engine *engine, PyObject *task, struct tn_operation *operation)
{
    engine->woken[engine->woken_count++] = (struct tn_woken){task, tn_new_ref(operation)};
}

/* As Trio does: in the order in which they were woken, or in the reverse, at random. */
static int is_reversed(struct tn_engine *engine)
{
    engine->luck = engine->luck * 1664525 + 1013904223;
    return engine->luck >> 31;
}

int tn_steps(struct tn_engine *engine, int rc)
{
    uint32_t count = engine->woken_count;
    int reversed = is_reversed(engine);
    for (uint32_t i = 0; i < count; i++) {
        struct tn_woken *woken = &engine->woken[reversed ? count - 1 - i : i];
        if (!rc) /* else Trio is breaking down, and with it the task */
            rc = step(engine, woken->task, (PyObject *)woken->operation);
        Py_DECREF(woken->task);
        Py_DECREF(woken->operation);
    }
    engine->woken_count = 0;
    return rc;
}
