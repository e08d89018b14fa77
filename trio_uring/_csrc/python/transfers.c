/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * The operations of handles that are done most, where nothing about them is unusual: each method
 * returns what the task awaits, or None, and then nothing has begun.
 */
#include <sys/socket.h>

#include "native.h"

#define OP_SEND 26
#define OP_RECV 27
#define F_FIXED_FILE 1
#define F_IO_LINK 4
#define F_CQE_SKIP_SUCCESS 64
#define F_BUFFER_SELECT 32
/* What the kernel moves at the most, and the last offset; see _buffers.py and _batch.py. */
#define BYTES_MAX 0x7FFFF000LL
#define SHARED_BYTES_MAX (1LL << 30)

int tn_number(PyObject *object, long long min, long long max, long long *value)
{
    if (!PyLong_CheckExact(object))
        return 0;
    *value = PyLong_AsLongLong(object);
    if (*value == -1 && PyErr_Occurred())
        PyErr_Clear();
    return *value >= min && *value <= max;
}

struct tn_engine *tn_engine_of(PyObject *self)
{
    struct tn_handle *handle = (struct tn_handle *)self;
    if (handle->slot < 0 || !PyObject_TypeCheck(handle->engine, tn_engine_type))
        return NULL;
    struct tn_engine *engine = (struct tn_engine *)handle->engine;
    return engine->clock_jumps ? NULL : engine;
}

static struct tn_operation *begin(PyObject *self, struct tn_engine *engine, struct tu_sqe entry)
{
    struct tu_sqe *sqe;
    struct tn_operation *operation = tn_begin(engine, self, &sqe);
    if (!operation)
        return NULL;
    struct tn_handle *handle = (struct tn_handle *)self;
    entry.flags |= handle->fixed ? F_FIXED_FILE : 0;
    entry.fd = handle->number;
    entry.user_data = operation->user_data;
    *sqe = entry;
    return operation;
}

/* -- files ---------------------------------------------------------------------------------------- */

static PyObject *begin_read(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct tn_engine *engine = tn_engine_of(self);
    long long nbytes, offset;
    if (!engine || nargs != 2 || !tn_number(args[0], 0, BYTES_MAX, &nbytes) ||
        !tn_number(args[1], 0, INT64_MAX, &offset))
        Py_RETURN_NONE;
    PyObject *data = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)nbytes);
    if (!data)
        return NULL;
    struct tn_operation *operation = begin(self, engine, (struct tu_sqe){
        .opcode = TN_OP_READ, .off = (uint64_t)offset, .addr = (uintptr_t)PyBytes_AsString(data),
        .len = (uint32_t)nbytes});
    if (!operation) {
        Py_DECREF(data);
        return NULL;
    }
    operation->pins = data; /* KERNEL OWNS it until the final CQE */
    return tn_awaitable(operation, TN_READ, 1);
}

void tn_take_back(struct lent *lent)
{
    if (lent->pins)
        Py_DECREF(lent->pins);
    else
        PyBuffer_Release(&lent->view);
}

static unsigned long long lend_pinned(const struct tn_pinned *pinned, struct lent *lent)
{
    lent->pinned = pinned;
    lent->pins = tn_new_ref(pinned->export);
    lent->start = (char *)(uintptr_t)pinned->address;
    return pinned->nbytes;
}

int tn_lend(PyObject *object, int flags, long long min, struct lent *lent)
{
    unsigned long long nbytes;
    *lent = (struct lent){0};
    if (flags == PyBUF_SIMPLE && PyBytes_CheckExact(object)) {
        lent->pins = tn_new_ref(object);
        lent->start = PyBytes_AsString(object);
        nbytes = (unsigned long long)PyBytes_Size(object);
    } else if (PyObject_TypeCheck(object, tn_pinned_type)) {
        const struct tn_pinned *pinned = (const struct tn_pinned *)object;
        if (!pinned->export || (flags == PyBUF_WRITABLE && !pinned->writable))
            return 0;
        nbytes = lend_pinned(pinned, lent);
    } else if (PyObject_GetBuffer(object, &lent->view, flags)) {
        PyErr_Clear(); /* Python says it better */
        return 0;
    } else {
        lent->start = lent->view.buf;
        nbytes = (unsigned long long)lent->view.len;
    }
    if (nbytes >= (unsigned long long)min && nbytes <= BYTES_MAX) {
        lent->nbytes = (uint32_t)nbytes;
        return 1;
    }
    tn_take_back(lent);
    return 0;
}

void tn_keep(struct tn_operation *operation, const struct lent *lent)
{
    operation->pins = lent->pins;
    operation->view = lent->view;
    operation->nbytes = lent->nbytes;
}

int tn_place_of(const struct tn_engine *engine, const struct lent *lent)
{
    const struct tn_pinned *pinned = lent->pinned;
    if (!pinned || pinned->engine != (const PyObject *)engine)
        return -1;
    PyObject *place = pinned->place && PyList_Check(pinned->place) ? PyList_GetItem(pinned->place, 0) : NULL;
    long number = place ? PyLong_AsLong(place) : -1;
    PyErr_Clear();
    return (int)number;
}

/* `begin` with memory that was lent; if that fails it is taken back. No engine: nothing to begin. */
static struct tn_operation *begin_lent(PyObject *self, struct tn_engine *engine, struct lent *lent,
                                       struct tu_sqe entry)
{
    entry.addr = (uintptr_t)lent->start;
    entry.len = lent->nbytes;
    struct tn_operation *operation = engine ? begin(self, engine, entry) : NULL;
    if (operation)
        tn_keep(operation, lent);
    else
        tn_take_back(lent);
    return operation;
}

PyObject *tn_nothing(void)
{
    return PyErr_Occurred() ? NULL : tn_new_ref(Py_None);
}

static void use_place(struct tn_operation *operation, int place)
{
    struct tn_queue *queue = operation->engine->queue;
    struct tu_sqe *sqe = &queue->sqes[operation->position & queue->mask];
    if (place < 0)
        return;
    sqe->opcode = (uint8_t)TN_FIXED(sqe->opcode);
    sqe->buf_index = (uint16_t)place;
}

static PyObject *begin_transfer(PyObject *self, PyObject *const *args, Py_ssize_t nargs, int opcode)
{
    long long offset;
    struct lent lent;
    if (nargs != 2 || !tn_number(args[1], 0, INT64_MAX, &offset) ||
        !tn_lend(args[0], opcode == TN_OP_READ ? PyBUF_WRITABLE : PyBUF_SIMPLE, 0, &lent))
        Py_RETURN_NONE;
    struct tn_operation *operation = begin_lent(
        self, tn_engine_of(self), &lent,
        (struct tu_sqe){.opcode = (uint8_t)opcode, .off = (uint64_t)offset});
    if (operation)
        use_place(operation, tn_place_of(operation->engine, &lent));
    return operation ? tn_awaitable(operation, TN_NUMBER, 1) : tn_nothing();
}

static PyObject *begin_readinto(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return begin_transfer(self, args, nargs, TN_OP_READ);
}

static PyObject *begin_write(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return begin_transfer(self, args, nargs, TN_OP_WRITE);
}

/* -- sockets -------------------------------------------------------------------------------------- */

static int can_receive(const struct tn_handle *socket)
{
    return !socket->receiving && tn_is_none(socket->receive_lost) &&
           (!socket->received || !PyList_Size(socket->received));
}

static int can_share(const struct tn_handle *socket, const struct tn_engine *engine)
{
    return socket->may_share && !tn_is_none(engine->buffers) && can_receive(socket);
}

static int can_send(const struct tn_handle *socket)
{
    return !socket->sending && tn_is_none(socket->send_lost);
}

/* Into a buffer that is chosen when data are there: an idle connection lends nothing. */
static PyObject *begin_receive(PyObject *self, PyObject *bufsize)
{
    struct tn_engine *engine = tn_engine_of(self);
    struct tn_handle *socket = (struct tn_handle *)self;
    long long nbytes;
    if (!engine || !can_share(socket, engine) || !tn_number(bufsize, 1, SHARED_BYTES_MAX - 1, &nbytes))
        Py_RETURN_NONE;
    struct tn_operation *operation = begin(self, engine, (struct tu_sqe){
        .opcode = OP_RECV, .flags = F_BUFFER_SELECT, .len = (uint32_t)nbytes});
    if (!operation)
        return NULL;
    PyObject *awaitable = tn_awaitable(operation, TN_RECEIVED, 0);
    socket->receiving = awaitable != NULL;
    return awaitable;
}

/* Into a buffer of the caller's: all of it. */
static PyObject *begin_receive_into(PyObject *self, PyObject *buffer)
{
    struct tn_handle *socket = (struct tn_handle *)self;
    struct lent lent;
    if (!tn_lend(buffer, PyBUF_WRITABLE, 1, &lent))
        Py_RETURN_NONE;
    struct tn_operation *operation = begin_lent(
        self, can_receive(socket) ? tn_engine_of(self) : NULL, &lent, (struct tu_sqe){.opcode = OP_RECV});
    if (!operation)
        return tn_nothing();
    PyObject *awaitable = tn_awaitable(operation, TN_NUMBER, 0);
    socket->receiving = awaitable != NULL;
    return awaitable;
}

/* The task gets None, or how many bytes if that is not all. */
static PyObject *begin_send(PyObject *self, PyObject *data)
{
    struct tn_handle *socket = (struct tn_handle *)self;
    struct lent lent;
    if (!tn_lend(data, PyBUF_SIMPLE, 1, &lent))
        Py_RETURN_NONE;
    struct tn_operation *operation = begin_lent(
        self, can_send(socket) ? tn_engine_of(self) : NULL, &lent,
        (struct tu_sqe){.opcode = OP_SEND, .op_flags = MSG_NOSIGNAL});
    if (!operation)
        return tn_nothing();
    PyObject *awaitable = tn_awaitable(operation, TN_SENT, 1);
    socket->sending = awaitable != NULL;
    return awaitable;
}

/* What is linked is submitted together: two entries must be free. 0: they are not, nor can be. */
static int has_room_for_two(struct tn_engine *engine)
{
    struct tn_queue *queue = engine->queue;
    if (!queue->sqes || !queue->mask)
        return 0;
    if (queue->limit - queue->tail >= 2)
        return 1;
    PyObject *task = tn_current_task(engine); /* else it is not for us to make room */
    Py_XDECREF(task);
    if (!task)
        return 0;
    PyObject *none = PyObject_CallMethod((PyObject *)engine, "make_room", "i", 2);
    Py_XDECREF(none);
    return none != NULL;
}

/* A send, and linked behind it a receive. One completion comes: that of the receive, or if not all was
 * sent only that of the send. NULL without an exception: what ran while the record was made has taken the room. */
static struct tn_operation *exchange(PyObject *self, struct tn_engine *engine, struct lent *lent,
                                     uint32_t bufsize)
{
    struct tn_handle *socket = (struct tn_handle *)self;
    struct tn_queue *queue = engine->queue;
    struct tn_operation *operation = begin_lent(
        self, engine, lent,
        (struct tu_sqe){.opcode = OP_SEND, .flags = F_IO_LINK | F_CQE_SKIP_SUCCESS,
                        .op_flags = MSG_NOSIGNAL | MSG_WAITALL});
    if (!operation)
        return NULL;
    struct tu_sqe *send = &queue->sqes[operation->position & queue->mask];
    if (queue->tail == queue->limit) {
        *send = (struct tu_sqe){0};
        tn_abandon(operation);
        return NULL;
    }
    send->user_data |= TN_SEND_BIT;
    operation->position = queue->tail++;
    queue->sqes[operation->position & queue->mask] = (struct tu_sqe){
        .opcode = OP_RECV, .flags = F_BUFFER_SELECT | (socket->fixed ? F_FIXED_FILE : 0),
        .fd = socket->number, .len = bufsize, .user_data = operation->user_data};
    operation->sent = lent->nbytes;
    operation->linked = 1;
    return operation;
}

static PyObject *begin_exchange(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    struct tn_handle *socket = (struct tn_handle *)self;
    struct lent lent;
    long long bufsize;
    if (nargs != 2 || !tn_number(args[1], 1, SHARED_BYTES_MAX - 1, &bufsize) ||
        !tn_lend(args[0], PyBUF_SIMPLE, 1, &lent))
        Py_RETURN_NONE;
    struct tn_engine *engine = tn_engine_of(self);
    /* Room first: what runs to make it may use the socket. */
    if (!engine || !has_room_for_two(engine) || !can_send(socket) || !can_share(socket, engine)) {
        tn_take_back(&lent);
        return tn_nothing();
    }
    struct tn_operation *operation = exchange(self, engine, &lent, (uint32_t)bufsize);
    if (!operation)
        return tn_nothing();
    PyObject *awaitable = tn_awaitable(operation, TN_RECEIVED, 0);
    socket->sending = socket->receiving = awaitable != NULL;
    return awaitable;
}

#define FAST(function) (PyCFunction)(void *)function, METH_FASTCALL
PyMethodDef tn_handle_methods[] = {
    {"_open", tn_open_handle, METH_VARARGS, PyDoc_STR("(engine, slot, companion, opened_at)")},
    {"_begin_close", tn_begin_close, METH_NOARGS, PyDoc_STR("From now on it is closing; or None.")},
    {"_begin_read", FAST(begin_read), PyDoc_STR("(nbytes, offset): bytes, or None.")},
    {"_begin_readinto", FAST(begin_readinto), PyDoc_STR("(buffer, offset): how many bytes, or None.")},
    {"_begin_write", FAST(begin_write), PyDoc_STR("(data, offset): how many bytes, or None.")},
    {"_begin_many", FAST(tn_begin_many), PyDoc_STR("(opcode, buffer, offsets): how many bytes each.")},
    {"_begin_receive", begin_receive, METH_O, PyDoc_STR("(bufsize): bytes, or None.")},
    {"_begin_receive_into", begin_receive_into, METH_O, PyDoc_STR("(buffer): how many bytes, or None.")},
    {"_begin_send", begin_send, METH_O, PyDoc_STR("(data): None or how many bytes; or None.")},
    {"_begin_exchange", FAST(begin_exchange), PyDoc_STR("(data, bufsize): bytes, or None.")},
    {NULL},
};
