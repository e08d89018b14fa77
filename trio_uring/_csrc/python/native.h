/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * What Python's objects have in C: the parts of a run that every awaited operation touches.
 *
 * The types here are bases. Their subclasses in Python have everything else, and see the members as
 * attributes: there is no second copy of any state. A function here does the usual case in one step;
 * whatever is unusual it leaves to Python, before it has changed anything.
 */
#ifndef TRIO_URING_NATIVE_H
#define TRIO_URING_NATIVE_H

#include <pyconfig.h>
#if !defined(Py_GIL_DISABLED) && !defined(Py_DEBUG)
#define Py_LIMITED_API 0x030A0000
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>

#if defined(Py_LIMITED_API) && Py_LIMITED_API < 0x030B0000
/* In the limited API since 3.11; it was the same in 3.10. */
typedef struct {
    void *buf;
    PyObject *obj;
    Py_ssize_t len, itemsize;
    int readonly, ndim;
    char *format;
    Py_ssize_t *shape, *strides, *suboffsets;
    void *internal;
} Py_buffer;
#define PyBUF_SIMPLE 0
#define PyBUF_WRITABLE 1
#define PyBUF_FORMAT 4
#define PyBUF_ND 8
#define PyBUF_CONTIG_RO PyBUF_ND
extern int PyObject_GetBuffer(PyObject *object, Py_buffer *view, int flags);
extern void PyBuffer_Release(Py_buffer *view);
#endif

#include "../abi.h"
#include "../core.h"

#define TN_OP_READ 22
#define TN_OP_WRITE 23
/* READ_FIXED, WRITE_FIXED: with a registered buffer. */
#define TN_FIXED(opcode) ((opcode) - 18)

/* user_data of an operation: see _operation.py. */
#define TN_GENERATION (1ULL << 32)
#define TN_INDEX_MASK 0xFFFFFFFFULL
#define TN_CANCEL_BIT (1ULL << 61)
#define TN_SEND_BIT (1ULL << 62)
#define TN_USER_DATA_MASK (TN_CANCEL_BIT - 1)

#define TN_F_BUFFER 1U
#define TN_F_MORE 2U
#define TN_BUFFER_SHIFT 16

/* Operations that a task may finish before the loop makes a pass; passes in a row in which it was the
 * only one that could run, before it may. */
#define TN_PROMPT_MAX 16
#define TN_ALONE_MIN 8

/* Passes without an operation after which a run leaves its ring alone. */
#define TN_IDLE_MAX 8

/* Records below this index are the engine's own. */
#define TN_OWN_IDS 2

/* What a task gets for its operation. */
enum tn_kind { TN_NUMBER, TN_READ, TN_RECEIVED, TN_SENT, TN_BATCH };

/* Where its awaiting is. */
enum tn_state { TN_IDLE, TN_BEGUN, TN_PROMPT, TN_SLEEPING };

/* The submission queue of an EngineRing. */
struct tn_queue {
    PyObject_HEAD
    uint32_t tail;          /* position of the next SQE; a free-running u32 */
    uint32_t limit;         /* where no SQE is free, as far as is known */
    uint32_t mask;
    struct tu_ring *ring;   /* cffi's, kept by the EngineRing */
    struct tu_sqe *sqes;    /* NULL: the ring is closed, or a parent's */
    PyObject *entries;      /* the same as objects of Python */
};

/* A task that is to be resumed, and what with. */
struct tn_woken {
    PyObject *task;
    struct tn_operation *operation;
};

struct tn_engine {
    PyObject_HEAD
    struct tn_queue *queue;
    unsigned long thread;           /* of the run */
    PyObject *context, *runner;     /* Trio's; NULL: with public names only, which are the next */
    PyObject *current_task, *current_token, *sleep, *reschedule, *token, *failure;
    PyObject *records, *buffers;
    PyObject *cancels, *cancels_again, *cancelled_chains, *stash, *reclaim, *free_indices;
    PyObject *spare_batch, *files;
    PyObject *message_type;         /* WaitTaskRescheduled */
    struct tn_woken *woken;         /* tasks of the pass, whose steps are run here */
    uint32_t woken_count, luck;
    struct tn_operation **pool;     /* records that are not in use */
    Py_ssize_t pool_count, pool_size;
    struct tu_cqe *cqes;            /* of the pass */
    uint32_t cqes_max;
    uint32_t flushed;
    uint64_t generation;            /* of records that are no single operation */
    int prompt_left, passes_alone;
    char clock_jumps, may_step, steps;
    char lets_go_late;              /* the kernel, of sockets; see _capabilities.py */
    long long completed, overflow_count, sent;
};

struct tn_operation {
    PyObject_HEAD
    struct tn_engine *engine;
    PyObject *task, *file, *pins, *raise_cancel, *abort, *message;
    Py_buffer view;         /* KERNEL OWNS its memory, and that of `pins`, until the final CQE */
    struct tu_batch *batch; /* of many, with the results behind it; NULL: this is one operation */
    uint64_t user_data;
    int64_t res, sent;
    uint32_t index, position, flags;
    uint32_t nbytes;        /* to be sent */
    uint32_t chain;         /* of a batch: of so many the last must run; 0: of none */
    char closing, bounded, linked, strict;
    uint8_t kind, state;
};

struct tn_handle {
    PyObject_HEAD
    PyObject *engine;
    PyObject *drained, *closed, *owner, *waiting_for_slot, *opened_at;
    PyObject *kind, *received, *receive_lost, *send_lost;
    int slot, number, companion, quarantined, in_flight;
    uint8_t fixed;
    char sole_owner, is_closing, receiving, sending, may_share;
};

/* The adopted driver; see _adopted.py. */
struct tn_driver {
    PyObject_HEAD
    struct tn_engine *engine;
    PyObject *armed;        /* a bool, as the next two */
    PyObject *is_guest;     /* None: not known yet */
    PyObject *epoll_has_events;
    PyObject *inner;        /* Trio's own manager */
    int idle_passes;
    char asleep;            /* the passes are epoll's */
};

struct tn_buffers {
    PyObject_HEAD
    char *memory;
    uint8_t *flags;         /* by id; 1: not the kernel's */
    void *buf_ring;
    unsigned int nbytes, count;
    long returned;          /* how many flags are set */
};

/* Memory that is exported once, for many operations; see _buffers.py. */
struct tn_pinned {
    PyObject_HEAD
    PyObject *export;
    PyObject *engine, *place;   /* of one that is registered: whose table, and a list of where in it */
    unsigned long long address, nbytes;
    char writable;
};

/* Of the C core, which is linked into the other extension module. */
struct tn_core {
    int64_t (*try_one)(struct tu_ring *, uint32_t, uint64_t);
    int (*submit_and_copy)(struct tu_ring *, uint32_t, uint32_t, int64_t, void *, uint32_t);
    uint32_t (*give_in_order)(void *, uint32_t, uint8_t *, uint64_t, uint32_t);
    int (*batch_transfers)(struct tu_ring *, uint32_t, struct tu_batch *, uint8_t, uint8_t, int, uint64_t,
                           uint32_t, uint16_t, const uint64_t *);
    void (*batch_abandon)(struct tu_ring *, struct tu_batch *);
};
extern struct tn_core tn_core;

extern PyTypeObject *tn_operation_type, *tn_handle_type, *tn_engine_type, *tn_buffers_type;
extern PyTypeObject *tn_pinned_type;

/* Interned strings. */
#define TN_NAMES(X)                                                                               \
    X(_abort_func) X(_arm) X(_ask_epoll) X(_at_end) X(_cancel_points) X(_cancel_status)           \
    X(_hand_over_quietly) X(_process_events_anyhow) X(_get_events_anyhow) X(_make_room)           \
    X(_new_record) X(_next_send) X(_next_send_fn) X(_operation_ended) X(_queue) X(_raise)         \
    X(_runner) X(_schedule_points) X(append) X(coro) X(data) X(current_task)                      \
    X(custom_sleep_data) X(get_events) X(effectively_cancelled) X(instruments) X(ki_pending)      \
    X(main_task) X(reclaim_dropped) X(ring) X(runq) X(send) X(task) X(task_scheduled) X(unwrap)   \
    X(_in_flight) X(_uncancel) X(user_data) X(abort_func) X(context) X(run) X(before_task_step)    \
    X(after_task_step) X(before_io_wait) X(after_io_wait) X(_attempt_delivery_of_any_pending_cancel)    \
    X(_attempt_delivery_of_pending_ki) X(_forget) X(_checked_slot) X(_task_ended)    \
    X(_tell_of_step)
#define TN_DECLARE(name) extern PyObject *tn_str_##name;
TN_NAMES(TN_DECLARE)
#undef TN_DECLARE

static inline int tn_is_none(const PyObject *object)
{
    return !object || object == Py_None;
}

static inline void *tn_new_ref(void *object)
{
    Py_INCREF((PyObject *)object);
    return object;
}

static inline PyObject *tn_call_method(void *self, PyObject *name)
{
    return PyObject_CallMethodObjArgs(self, name, NULL);
}

/* 1, 0, or -1 with an exception. */
static inline int tn_is_true(PyObject *object, PyObject *name)
{
    PyObject *value = object ? PyObject_GetAttr(object, name) : NULL;
    int rc = value ? PyObject_IsTrue(value) : -1;
    Py_XDECREF(value);
    return rc;
}

/* For a method whose result says nothing: 0, or -1 with an exception. */
int tn_tell(void *self, PyObject *name);

PyObject *tn_make_type(PyObject *module, PyType_Spec *spec);
void tn_free(PyObject *self);

extern PyObject *tn_one;
int tn_count_checkpoint(PyObject *task);
/* Enters a task into Trio's queue of those that can run. */
int tn_append(struct tn_engine *engine, PyObject *task);
/* The same, and what it gets is the operation. */
int tn_enter_in_queue(PyObject *task, struct tn_operation *operation);

/* What instruments are told of, and would not be by what is written out here. */
enum tn_watched { TN_UNKNOWN = -1, TN_NOTHING, TN_STEPS, TN_WAKING };
enum tn_watched tn_watched(struct tn_engine *engine);

int tn_will_step(struct tn_engine *engine, PyObject *task, struct tn_operation *operation);
/* Runs the steps of the pass, if `rc` is 0, and returns it or -1. */
int tn_steps(struct tn_engine *engine, PyObject *hooks, int rc);

int tn_add_queue(PyObject *module);
int tn_add_operation(PyObject *module);
int tn_add_handle(PyObject *module);
int tn_add_buffers(PyObject *module);
int tn_add_engine(PyObject *module);
int tn_add_driver(PyObject *module);

/* A new reference; NULL: an exception says that this is not a task of the engine's run. */
PyObject *tn_current_task(struct tn_engine *engine);
/* The index and user_data of records that are no single operation: 0, or -1, is an exception. */
uint64_t tn_add_record(struct tn_engine *engine, PyObject *record);
int tn_remove_record(struct tn_engine *engine, uint64_t user_data);
/* A record for an operation of the current task, and its SQE, which the caller fills. `file`: the
 * handle that it names, or NULL. NULL: an exception; nothing has begun. */
struct tn_operation *tn_begin(struct tn_engine *engine, PyObject *file, struct tu_sqe **sqe);
/* It has begun, and its SQE is none: as if it had not. Takes over the reference. */
void tn_abandon(struct tn_operation *operation);
/* What a method returns for a task to await; takes over the reference. */
PyObject *tn_awaitable(struct tn_operation *operation, enum tn_kind kind, int prompt);
/* Submits it out of turn, if nobody else can run. Whether it has completed. */
int tn_finished_now(struct tn_engine *engine, struct tn_operation *operation);
/* What the task gets; the record is free again. NULL: an exception. */
PyObject *tn_outcome(struct tn_operation *operation);
void tn_recycle(struct tn_operation *operation);
/* The same for the record of a batch: it is the spare one. Keeps the exception. */
void tn_recycle_batch(struct tn_operation *operation);
/* A list of what its operations answered. */
PyObject *tn_answers(const struct tn_operation *operation);
/* A handle's count of operations in flight. 0, or -1 with an exception. */
int tn_operation_began(PyObject *file);
int tn_operation_ended(PyObject *file);

static inline int tn_is_empty(PyObject *list)
{
    return !list || PyList_Size(list) == 0;
}

static inline int tn_buffers_are_back(const struct tn_engine *engine)
{
    return !tn_is_none(engine->buffers) && ((struct tn_buffers *)engine->buffers)->returned;
}

PyObject *tn_take_completions(PyObject *engine, PyObject *none);
PyObject *tn_pass_begins(PyObject *engine, PyObject *none);

PyObject *tn_take(struct tn_buffers *buffers, uint32_t flags, Py_ssize_t nbytes);
void tn_give_back(struct tn_buffers *buffers);

PyObject *tn_open_handle(PyObject *handle, PyObject *args);
PyObject *tn_begin_close(PyObject *handle, PyObject *none);
PyObject *tn_begin_many(PyObject *handle, PyObject *const *args, Py_ssize_t nargs);
PyObject *tn_hold_results(PyObject *operation, PyObject *count);
PyObject *tn_start_batch(PyObject *operation, PyObject *args);

/* Memory of the caller's, for as long as the operation needs it. */
struct lent {
    PyObject *pins;             /* `bytes` need no more */
    Py_buffer view;
    const struct tn_pinned *pinned;
    char *start;
    uint32_t nbytes;
};

/* 0: it is not to be had so, or of another size. Can run any code. */
int tn_lend(PyObject *object, int flags, long long min, struct lent *lent);
void tn_take_back(struct lent *lent);
/* KERNEL OWNS the memory until the final CQE */
void tn_keep(struct tn_operation *operation, const struct lent *lent);
/* Where it is in the table of registered buffers; -1: nowhere. */
int tn_place_of(const struct tn_engine *engine, const struct lent *lent);
/* The engine, if the handle is open and nothing jumps over the operation. */
struct tn_engine *tn_engine_of(PyObject *handle);
/* Of a method that has begun nothing: an exception, or None for Python to do it. */
PyObject *tn_nothing(void);
/* An exact int from `min` to `max`. */
int tn_number(PyObject *object, long long min, long long max, long long *value);

extern PyMethodDef tn_handle_methods[];

#endif
