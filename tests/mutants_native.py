# SPDX-License-Identifier: MIT OR Apache-2.0
"""``python tests/mutants_native.py [NAME...]``: `mutants_engine` for what is done in C.

A name that ends with ``_in_c`` is that of a mutant there, which breaks the same rule in Python: it
is kept there for the other driver, and for what is unusual.
"""

from __future__ import annotations

import sys

from mutants_engine import Mutant, main

OPERATION = "_csrc/python/operation.c"
TRANSFERS = "_csrc/python/transfers.c"
ENGINE = "_csrc/python/engine.c"
TURN = "_csrc/python/turn.c"
HANDLE = "_csrc/python/handle.c"
BUFFERS = "_csrc/python/buffers.c"
CORE = "_csrc/core.c"

MUTANTS = [
    # Memory that the kernel uses
    Mutant(
        "no_keep_alive",
        TRANSFERS,
        "    operation->view = lent->view;\n",
        "    Py_buffer view = lent->view;\n    PyBuffer_Release(&view);\n",
        ("test_promises.py::promise_1_a_buffer_outlives",),
    ),
    Mutant(
        "a_read_keeps_no_memory",
        TRANSFERS,
        "    operation->pins = data; /*",
        "    operation->pins = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)nbytes);\n"
        "    Py_XDECREF(data); /*",
        ("test_native.py::reads_that_wait",),
    ),
    Mutant(
        "what_is_lent_is_not_kept",
        TRANSFERS,
        "        keep(operation, lent);\n    else",
        "        take_back(lent), operation->nbytes = lent->nbytes;\n    else",
        ("test_native.py::outlive_the_task",),
    ),
    Mutant(
        "a_buffer_of_a_free_record_stays_locked",
        OPERATION,
        "    if (view.obj)\n        PyBuffer_Release(&view);\n    while (count)",
        "    while (count)",
        ("test_promises.py::promise_1_a_buffer_is_locked",),
    ),
    # Records
    Mutant(
        "a_record_is_of_one_generation",
        OPERATION,
        "(operation->user_data + TN_GENERATION) & TN_USER_DATA_MASK",
        "operation->user_data & TN_USER_DATA_MASK",
        ("test_engine_queues.py::row_9",),
    ),
    Mutant(
        "no_generation_check_in_c",
        TURN,
        " operation->user_data == cqe->user_data &&",
        "",
        ("test_engine_queues.py::row_9",),
    ),
    Mutant(
        "a_record_stays_bounded",
        OPERATION,
        "operation->closing = operation->bounded = operation->linked = 0;",
        "operation->closing = operation->linked = 0;",
        ("test_native.py::holds_no_clock",),
    ),
    Mutant(
        "a_record_stays_closing",
        OPERATION,
        "operation->closing = operation->bounded = operation->linked = 0;",
        "operation->bounded = operation->linked = 0;",
        ("test_native.py::nothing_of_an_operation",),
    ),
    Mutant(
        "a_record_stays_cancelled",
        OPERATION,
        "    swap_out(&operation->raise_cancel, garbage, &count);\n",
        "",
        ("test_native.py::nothing_of_an_operation",),
    ),
    Mutant(
        "a_record_keeps_its_handle",
        OPERATION,
        "    swap_out(&operation->file, garbage, &count);\n",
        "    operation->file = NULL;\n",
        ("test_kinds_of_run.py::thousands", "test_slots.py::dropped"),
    ),
    Mutant(
        "what_does_not_fit_is_cut",
        ENGINE,
        "!PyErr_Occurred() && *value <= max;",
        "!PyErr_Occurred();",
        ("test_handle_life.py::fit_no_entry",),
    ),
    Mutant(
        "records_are_not_visited",
        ENGINE,
        "        Py_VISIT(engine->pool[i]);\n",
        "        ;\n",
        ("test_kinds_of_run.py::thousands",),
    ),
    Mutant(
        "a_full_queue_is_an_error",
        ENGINE,
        "if (queue->tail == queue->limit && tn_tell(engine, tn_str__make_room))",
        "if (0)",
        ("test_engine_queues.py::row_21",),
    ),
    Mutant(
        "any_run_may_use_any_ring_in_c",
        ENGINE,
        "if (runner && runner == engine->runner)",
        "if (runner)",
        ("test_engine_process.py::interrupts_its_own",),
    ),
    Mutant(
        "an_enter_for_each_operation",
        ENGINE,
        "    operation->task = task;\n",
        '    Py_XDECREF(PyObject_CallMethod((PyObject *)engine, "flush_now", NULL));\n'
        "    operation->task = task;\n",
        ("test_syscalls.py::echo",),
    ),
    # Results
    Mutant(
        "a_cancel_discards_the_result",
        OPERATION,
        "    if (res < 0)\n        return tn_call_method(operation, tn_str__raise);",
        "    if (!tn_is_none(operation->raise_cancel))\n"
        "        return PyObject_CallObject(operation->raise_cancel, NULL);\n"
        "    if (res < 0)\n        return tn_call_method(operation, tn_str__raise);",
        ("test_promises.py::promise_2", "test_engine_queues.py::row_14"),
    ),
    Mutant(
        "a_short_send_is_not_reported",
        OPERATION,
        "res == nbytes ? tn_new_ref(Py_None) : PyLong_FromLongLong(res)",
        "tn_new_ref(Py_None)",
        ("test_promises.py::promise_8",),
    ),
    Mutant(
        "a_short_read_is_as_long_as_was_asked_for",
        OPERATION,
        "    if (nbytes == PyBytes_Size(data))\n        return data;\n",
        "    return data;\n",
        ("test_native.py::reads_that_wait",),
    ),
    Mutant(
        "an_exchange_forgets_what_was_sent",
        OPERATION,
        "        engine->sent = operation->sent;\n",
        "        engine->sent = PyLong_FromLong(0);\n",
        ("test_exchange.py::sent_once",),
    ),
    Mutant(
        "an_error_is_a_result_in_c",
        TURN,
        " && cqe->res >= 0 &&",
        " &&",
        ("test_native.py::error_that_took_a_buffer",),
    ),
    Mutant(
        "a_zero_copy_send_is_over_with_its_result",
        TURN,
        " && !(cqe->flags & TN_F_MORE);",
        ";",
        ("test_findings_handles.py::zero_copy",),
    ),
    Mutant(
        "a_step_that_is_traced_returns_nothing",
        OPERATION,
        "PyObject_CallFunctionObjArgs(PyExc_StopIteration, result, NULL)",
        "PyObject_CallFunctionObjArgs(PyExc_StopIteration, Py_None, NULL)",
        ("test_native.py::traced",),
    ),
    # Shared buffers
    Mutant(
        "buffers_are_not_returned",
        BUFFERS,
        "    buffers->returned += !buffers->flags[id];\n    buffers->flags[id] = 1;\n",
        "",
        ("test_engine_sockets.py::row_61", "test_races.py::recv_that"),
    ),
    Mutant(
        "buffers_are_given_back_in_python_only",
        TURN,
        "    if (tn_buffers_are_back(engine))\n",
        "    if (0)\n",
        ("test_native.py::few_shared",),
    ),
    Mutant(
        "a_stream_that_flows_is_received_buffer_by_buffer",
        OPERATION,
        "            socket->may_share = 0;\n",
        "            ;\n",
        ("test_recv_bundles.py::full_buffer",),
    ),
    Mutant(
        "a_stream_that_has_flowed_takes_a_shared_buffer_in_c",
        TRANSFERS,
        "return socket->may_share && ",
        "return ",
        ("test_recv_bundles.py::full_buffer",),
    ),
    # Handles
    Mutant(
        "operations_of_a_handle_are_not_counted",
        HANDLE,
        "((struct tn_handle *)file)->in_flight++;",
        ";",
        ("test_engine_sockets.py::row_19 or row_34",),
    ),
    Mutant(
        "who_waits_for_the_last_operation_is_not_told",
        HANDLE,
        " && ((struct tn_handle *)file)->slot >= 0)",
        ")",
        ("test_promises.py::promise_4",),
    ),
    Mutant(
        "a_closed_handle_can_be_used",
        TRANSFERS,
        "handle->slot < 0 || ",
        "",
        ("test_promises.py::promise_4", "test_slots.py::row_33"),
    ),
    Mutant(
        "the_clock_jumps_over_files_in_c",
        TRANSFERS,
        "return engine->clock_jumps ? NULL : engine;",
        "return engine;",
        ("test_native.py::clock_that_jumps",),
    ),
    Mutant(
        "two_readers_at_once_in_c",
        TRANSFERS,
        "return !socket->receiving && tn_is_none(socket->receive_lost)",
        "return tn_is_none(socket->receive_lost)",
        ("test_engine_sockets.py::row_55",),
    ),
    Mutant(
        "two_writers_at_once_in_c",
        TRANSFERS,
        "return !socket->sending && ",
        "return ",
        ("test_engine_sockets.py::row_55",),
    ),
    Mutant(
        "a_receive_is_not_seen",
        TRANSFERS,
        "    socket->receiving = awaitable != NULL;\n",
        "",
        ("test_engine_sockets.py::row_55",),
    ),
    Mutant(
        "a_send_is_not_seen",
        TRANSFERS,
        "    socket->sending = awaitable != NULL;\n",
        "",
        ("test_engine_sockets.py::row_55",),
    ),
    Mutant(
        "the_receive_of_an_exchange_is_not_seen",
        TRANSFERS,
        "    socket->sending = socket->receiving = awaitable != NULL;",
        "    socket->sending = awaitable != NULL;",
        ("test_exchange.py::keeps_others",),
    ),
    Mutant(
        "the_send_of_an_exchange_is_not_seen",
        TRANSFERS,
        "    socket->sending = socket->receiving = awaitable != NULL;",
        "    socket->receiving = awaitable != NULL;",
        ("test_exchange.py::keeps_others",),
    ),
    Mutant(
        "a_broken_stream_heals_in_c",
        TRANSFERS,
        "return !socket->receiving && tn_is_none(socket->receive_lost) &&",
        "return !socket->receiving &&",
        ("test_engine_sockets.py::row_50",),
    ),
    Mutant(
        "a_broken_stream_is_sent_to_in_c",
        TRANSFERS,
        "!socket->sending && tn_is_none(socket->send_lost)",
        "!socket->sending",
        ("test_native.py::lost",),
    ),
    Mutant(
        "what_was_received_before_is_overtaken",
        TRANSFERS,
        "tn_is_none(socket->receive_lost) &&\n"
        "           (!socket->received || !PyList_Size(socket->received));",
        "tn_is_none(socket->receive_lost);",
        (
            "test_recv_bundles.py::small_pieces",
            "test_engine_sockets.py::row_62",
        ),
    ),
    Mutant(
        "a_reset_that_a_send_was_told_of_is_an_end",
        OPERATION,
        "    if (!tn_is_none(socket->send_lost) && tn_tell(socket, tn_str__at_end))\n"
        "        return NULL;\n",
        "",
        ("test_findings_handles.py::told_of", "test_native.py::lost"),
    ),
    # Exchanges
    Mutant(
        "an_exchange_is_cut_in_two",
        TRANSFERS,
        " || !has_room_for_two(engine)",
        "",
        ("test_findings_hot.py::queue_of_one", "test_exchange.py::tiny_ring"),
        "if (queue->tail == queue->limit) {",
        "if (0) {",
    ),
    Mutant(
        "an_exchange_may_send_a_part",
        TRANSFERS,
        "MSG_NOSIGNAL | MSG_WAITALL",
        "MSG_NOSIGNAL",
        ("test_exchange.py::it_sends_all", "test_native.py::answer_does_not_overtake"),
    ),
    Mutant(
        "an_exchange_receives_at_once",
        TRANSFERS,
        ".flags = F_IO_LINK |",
        ".flags =",
        ("test_native.py::answer_does_not_overtake",),
    ),
    Mutant(
        "an_exchange_is_cancelled_as_a_receive",
        TRANSFERS,
        "    operation->linked = 1;\n",
        "",
        ("test_exchange.py::while_it_sends or sends_nothing",),
    ),
    # Waking
    Mutant(
        "a_woken_task_can_be_aborted",
        TURN,
        "             PyObject_SetAttr(task, tn_str__abort_func, Py_None) ||\n",
        "",
        ("test_hot.py::as_trio_would",),
    ),
    Mutant(
        "a_woken_task_keeps_its_custom_sleep_data",
        TURN,
        " ||\n             PyObject_SetAttr(task, tn_str_custom_sleep_data, Py_None);",
        ";",
        ("test_hot.py::as_trio_would",),
    ),
    Mutant(
        "instruments_are_not_told_of_who_is_scheduled",
        TURN,
        "int watched = count ? somebody_watches(engine) : 0;",
        "int watched = 0;",
        ("test_hot.py::as_trio_would",),
    ),
    # Children, and the garbage collector
    Mutant(
        "a_forked_child_makes_a_pass",
        TURN,
        "    return !engine->queue->sqes || !tn_is_empty(engine->cancels) ||",
        "    return !tn_is_empty(engine->cancels) ||",
        ("test_hot.py::forked_child",),
    ),
    Mutant(
        "the_engine_of_a_record_is_not_visited",
        OPERATION,
        "    Py_VISIT(operation->engine);\n",
        "",
        ("test_kinds_of_run.py::thousands",),
    ),
    Mutant(
        "the_engine_of_a_driver_is_not_visited",
        TURN,
        "    Py_VISIT(((struct tn_driver *)self)->engine);\n",
        "",
        ("test_kinds_of_run.py::thousands",),
    ),
    # Finishing in place
    Mutant(
        "finishing_in_place_has_no_end",
        ENGINE,
        "    engine->prompt_left--;\n",
        "",
        ("test_hot.py::timeout_ends or readiness_and",),
    ),
    Mutant(
        "finishing_in_place_is_not_counted",
        ENGINE,
        "    engine->prompt_left--;\n",
        "",
        ("test_hot.py::timeout_ends or readiness_and or not_alone",),
    ),
    Mutant(
        "finishing_in_place_among_others",
        TURN,
        "    if (runnable > 1) {",
        "    if (0) {",
        ("test_hot.py::not_alone",),
    ),
    Mutant(
        "finishing_in_place_from_the_first_pass",
        TURN,
        "engine->passes_alone > TN_ALONE_MIN ? TN_PROMPT_MAX : 0",
        "TN_PROMPT_MAX",
        ("test_hot.py::alone",),
    ),
    Mutant(
        "finishing_in_place_before_whom_it_woke",
        ENGINE,
        "    if (others)\n        return others < 0 ? -1 : 0;\n",
        "",
        ("test_hot.py::woke",),
    ),
    Mutant(
        "finishing_in_place_although_cancelled",
        ENGINE,
        "    if (cancelled)\n        return cancelled < 0 ? -1 : 0;\n",
        "",
        ("test_hot.py::cancelled_task",),
    ),
    Mutant(
        "finishing_in_place_although_interrupted",
        ENGINE,
        "    if (ki <= 0)\n        return ki < 0 ? -1 : 1;\n",
        "    if (ki < 2)\n        return ki < 0 ? -1 : 1;\n",
        ("test_hot.py::ctrl_c",),
    ),
    Mutant(
        "in_place_is_no_checkpoint",
        ENGINE,
        " || count_up(task, tn_str__schedule_points)",
        "",
        ("test_hot.py::every_read_is_a_checkpoint",),
    ),
    Mutant(
        "in_place_is_no_point_of_cancellation",
        ENGINE,
        "count_up(task, tn_str__cancel_points) || ",
        "",
        ("test_hot.py::every_read_is_a_checkpoint",),
    ),
    Mutant(
        "in_place_an_operation_of_a_handle_does_not_end",
        ENGINE,
        "tn_is_none(operation->file) ? 0 : tn_operation_ended(operation->file)",
        "0",
        ("test_hot.py::alone",),
    ),
    # A pass
    Mutant(
        "a_hidden_end_of_the_time_is_waited_for_again_in_c",
        TURN,
        "if (!timeout_ns || (timeout_ns = deadline - now_ns()) <= 0)",
        "if (!timeout_ns || count == -ETIME)",
        ("test_traps.py::a_submission_hides",),
    ),
    Mutant(
        "a_signal_ends_the_wait_in_c",
        TURN,
        "if (!timeout_ns || (timeout_ns = deadline - now_ns()) <= 0)",
        "if (1)",
        ("test_traps.py::a_signal",),
    ),
    Mutant(
        "a_signal_is_an_error_in_c",
        TURN,
        "code == -EINTR || ",
        "",
        ("test_traps.py::a_signal or handler",),
    ),
    Mutant(
        "a_kernel_without_memory_is_an_error_in_c",
        TURN,
        " || code == -EBUSY || code == -EAGAIN;",
        ";",
        ("test_findings_hot.py::did_not_take",),
    ),
    Mutant(
        "completions_are_not_counted",
        TURN,
        "            engine->completed += count;\n",
        "",
        ("test_engine_queues.py::statistics",),
    ),
    Mutant(
        "submissions_are_not_counted",
        TURN,
        "    engine->flushed = tail;\n",
        "",
        ("test_hot.py::counted",),
    ),
    Mutant(
        "what_is_finished_in_place_is_not_counted",
        ENGINE,
        "    engine->completed++;\n",
        "",
        ("test_hot.py::counted",),
    ),
    Mutant(
        "what_is_submitted_out_of_turn_is_not_counted",
        ENGINE,
        "    engine->flushed = queue->ring->flushed;\n",
        "",
        ("test_hot.py::counted",),
    ),
    Mutant(
        "full_passes_are_not_counted",
        TURN,
        "            engine->overflow_count += count == (int)engine->cqes_max;\n",
        "",
        ("test_engine_queues.py::row_22", "test_promises.py::overflowed"),
    ),
    Mutant(
        "handlers_of_signals_wait_for_the_end_of_the_time",
        TURN,
        "        if (PyErr_CheckSignals())\n            return -1;\n",
        "",
        (
            "test_traps.py::handler",
            "test_findings_native.py::signal",
        ),
    ),
    Mutant(
        "timeouts_of_whole_milliseconds_in_c",
        TURN,
        "(int64_t)(seconds * 1e9)",
        "seconds > 0 ? (int64_t)(seconds * 1000 + 1) * 1000000 : 0",
        ("test_traps.py::as_it_is",),
    ),
    Mutant(
        "a_loop_that_looks_around_when_idle_in_c",
        TURN,
        "(int64_t)(seconds * 1e9)",
        "(int64_t)((seconds > 0.05 ? 0.05 : seconds) * 1e9)",
        ("test_traps.py::for_ever_is_a_day",),
    ),
    Mutant(
        "dropped_handles_are_not_closed_by_a_pass",
        TURN,
        "    if (!rc && !tn_is_empty(engine->reclaim))\n",
        "    if (0)\n",
        ("test_native.py::dropped",),
    ),
    Mutant(
        "readiness_is_not_asked_for",
        TURN,
        "    if (driver->epoll_has_events == Py_True)\n",
        "    if (0)\n",
        ("test_engine_queues.py::readiness",),
    ),
    Mutant(
        "the_send_of_an_exchange_ends_a_pass",
        TRANSFERS,
        "F_IO_LINK | F_CQE_SKIP_SUCCESS",
        "F_IO_LINK",
        ("test_hot.py::sleeps_through",),
    ),
    Mutant(
        "what_an_exchange_has_sent_is_forgotten",
        TRANSFERS,
        "    operation->sent = lent->nbytes;\n",
        "    operation->sent = -1;\n",
        ("test_exchange.py::without_a_buffer",),
    ),
    Mutant(
        "both_halves_of_an_exchange_are_counted",
        CORE,
        "        if (sqe->user_data & ring->half_bit)\n            continue;\n",
        "",
        ("test_exchange.py::two_halves",),
    ),
    Mutant(
        "an_exchange_that_fails_stays_in_flight",
        CORE,
        "cqe->user_data & ~ring->half_bit",
        "cqe->user_data",
        ("test_exchange.py::two_halves",),
    ),
    Mutant(
        "a_run_that_is_idle_enters_its_ring_in_c",
        TURN,
        " || driver->idle_passes > TN_IDLE_MAX)",
        ")",
        ("test_hot.py::does_not_enter",),
    ),
    Mutant(
        "who_is_busy_sees_no_completions",
        TURN,
        "driver->armed == Py_True && is_silent(engine->queue->ring)",
        "driver->armed == Py_True",
        ("test_engine_queues.py::never_sleeps",),
    ),
    Mutant(
        "a_guest_is_taken_for_a_run_of_its_own",
        TURN,
        "unusual = driver->is_guest != Py_False ||",
        "unusual =",
        ("test_engine_guest.py::row_28",),
    ),
    Mutant(
        "cancels_wait_for_an_unusual_pass",
        TURN,
        "    return !engine->queue->sqes || !tn_is_empty(engine->cancels) ||",
        "    return !engine->queue->sqes ||",
        ("test_engine_queues.py::row_15", "test_races.py::recv_that"),
    ),
    Mutant(
        "what_was_taken_out_is_slept_over",
        TURN,
        "           !tn_is_empty(engine->cancelled_chains) || !tn_is_empty(engine->stash);",
        "           !tn_is_empty(engine->cancelled_chains);",
        ("test_engine_queues.py::row_74 or row_15",),
    ),
    Mutant(
        "a_second_request_to_cancel_is_not_made_in_c",
        TURN,
        "!tn_is_empty(engine->cancels) || !tn_is_empty(engine->cancels_again) ||\n"
        "           !tn_is_empty(engine->cancelled_chains)",
        "!tn_is_empty(engine->cancels) ||\n           !tn_is_empty(engine->cancelled_chains)",
        ("test_traps.py::found_nothing",),
    ),
    Mutant(
        "what_the_kernel_did_not_take_is_left",
        TURN,
        "*engine->queue->ring->sq_head != engine->queue->tail ||",
        "engine->flushed != engine->queue->tail ||",
        ("test_findings_hot.py::did_not_take",),
    ),
]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], MUTANTS))
