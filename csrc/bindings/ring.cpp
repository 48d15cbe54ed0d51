// penstock._core.Ring: the ring of csrc/ring with Python objects as items.
//
// Who holds the GIL: every call that moves or drops an item does, so reference counts are safe. The two
// waits give it up, in slices of 20 ms, and look for signals between the slices.
//
// The calls that hand items over are plain CPython methods: pybind11's dispatch takes longer than the ring does.

#include "ring/ring.h"

#include <cxxabi.h>
#include <pybind11/stl.h>

#include <cmath>
#include <string>

#include "bindings/gil.h"
#include "bindings/register.h"

namespace penstock::bindings {
namespace {

// The ring, and what its consumer has in hand: the tickets that it took last. They are recycled when it
// comes for more, so that taking is one call.
class ObjectRing : public Ring<py::object> {
  public:
    using Ring::Ring;

    // Consumer only. Frees the slots of what was taken before ticket `end`.
    void give_back(Ticket end) {
        while (oldest_held_ < end) recycle(oldest_held_++);
    }

    std::atomic<std::uint64_t> gil_wait_ns{0};  // the consumer's, with its item there already

  private:
    Ticket oldest_held_ = 0;
};

constexpr auto kSlice = std::chrono::milliseconds(20);
constexpr double kForever = 1e9;  // seconds; about thirty years

[[noreturn]] void refuse(const std::string& message) { throw py::value_error(message); }

std::size_t capacity_from(std::int64_t capacity) {
    if (capacity >= 0) return static_cast<std::size_t>(capacity);
    refuse("capacity must be at least 1, not " + std::to_string(capacity));
}

Ticket ticket_from(const char* call, PyObject* number) {
    const std::int64_t ticket = PyLong_AsLongLong(number);
    if (ticket >= 0) return static_cast<Ticket>(ticket);
    if (PyErr_Occurred() != nullptr) throw py::error_already_set();
    refuse(std::string(call) + ": ticket " + std::to_string(ticket) + " is negative; tickets count from 0");
}

std::string text(double number) { return py::str(py::float_(number)); }

Deadline deadline_from(PyObject* timeout) {
    if (timeout == Py_None) return Deadline::max();
    const double number = PyFloat_AsDouble(timeout);
    if (number == -1.0 && PyErr_Occurred() != nullptr) throw py::error_already_set();
    if (std::isnan(number) || number < 0) {
        refuse("take: timeout must be None or at least 0 seconds, not " + text(number));
    }
    if (number >= kForever) return Deadline::max();
    const std::chrono::duration<double> seconds(number);
    return Clock::now() + std::chrono::duration_cast<Clock::duration>(seconds);
}

// Calls wait(end of slice) without the GIL until it returns true, or the deadline (then false). Between
// slices Python's signal handlers run: Ctrl-C raises KeyboardInterrupt here, in the main thread.
template <class Wait>
bool wait_in_slices(Deadline deadline, Wait wait) {
    for (;;) {
        const Deadline now = Clock::now();
        const Deadline slice = deadline - now > kSlice ? now + kSlice : deadline;
        if (without_gil([&] { return wait(slice); })) return true;
        if (PyErr_CheckSignals() != 0) throw py::error_already_set();
        if (Clock::now() >= deadline) return false;
    }
}

bool claim_blocking(ObjectRing& ring, Ticket ticket) {
    Outcome outcome = ring.try_claim(ticket);
    while (outcome == Outcome::timeout) {
        wait_in_slices(Deadline::max(), [&](Deadline slice) { return ring.await_writable(ticket, slice); });
        outcome = ring.try_claim(ticket);
    }
    return outcome == Outcome::ok;
}

// What is ready, and only then the slots of what was taken before: a feeder that this wakes works while the loop
// does. With nothing ready the slots come first, for the feeder may need them.
Taken<py::object> try_take(ObjectRing& ring) {
    const Ticket head = ring.head();
    Taken<py::object> taken = ring.try_take();
    ring.give_back(head);
    return taken;
}

// ---- the methods: what CPython calls ------------------------------------------------------------------

// Runs work(), which returns a new reference or throws.
template <class Work>
PyObject* answer(Work work) {
    try {
        return work();
    } catch (py::error_already_set& error) {
        error.restore();
#ifdef __GLIBCXX__
    } catch (const abi::__forced_unwind&) {
        throw;  // a daemon thread that is ended at exit, inside a wait
#endif
    } catch (...) {
        py::detail::try_translate_exceptions();
    }
    return nullptr;
}

ObjectRing& ring_of(PyObject* self) {
    const auto held = reinterpret_cast<py::detail::instance*>(self)->get_value_and_holder();
    if (auto* const ring = held.value_ptr<ObjectRing>(); ring != nullptr) return *ring;
    throw py::type_error("Ring.__init__() was not called");
}

PyObject* truth(bool value) { return Py_NewRef(value ? Py_True : Py_False); }

// (ticket, item), where there is an item.
PyObject* pair_from(Taken<py::object>& taken) {
    PyObject* const ticket = PyLong_FromUnsignedLongLong(taken.ticket);
    PyObject* const pair = ticket == nullptr ? nullptr : PyTuple_New(2);
    if (pair == nullptr) {
        Py_XDECREF(ticket);
        throw py::error_already_set();
    }
    PyTuple_SET_ITEM(pair, 0, ticket);
    PyTuple_SET_ITEM(pair, 1, taken.item->release().ptr());
    return pair;
}

PyObject* claim(PyObject* self, PyObject* ticket) {
    return answer([&] { return truth(claim_blocking(ring_of(self), ticket_from("claim", ticket))); });
}

PyObject* try_claim(PyObject* self, PyObject* ticket) {
    return answer(
        [&] { return truth(ring_of(self).try_claim(ticket_from("try_claim", ticket)) == Outcome::ok); });
}

PyObject* publish(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
    return answer([&] {
        if (count != 2) throw py::type_error("publish(ticket, item) takes 2 arguments");
        auto item = py::reinterpret_borrow<py::object>(arguments[1]);
        return truth(ring_of(self).publish(ticket_from("publish", arguments[0]), std::move(item)));
    });
}

PyObject* publish_next(PyObject* self, PyObject* item) {
    return answer([&] {
        const auto ticket = ring_of(self).publish_next(py::reinterpret_borrow<py::object>(item));
        return PyLong_FromLongLong(ticket ? static_cast<std::int64_t>(*ticket) : -1);
    });
}

PyObject* put(PyObject* self, PyObject* const* items, Py_ssize_t count) {
    return answer([&] {
        ObjectRing& ring = ring_of(self);
        Py_ssize_t done = 0;
        for (; done < count; ++done) {
            const Ticket ticket = ring.claimed();
            if (!claim_blocking(ring, ticket)) break;
            if (!ring.publish(ticket, py::reinterpret_borrow<py::object>(items[done]))) break;
        }
        return PyLong_FromSsize_t(done);
    });
}

PyObject* timeout_from(PyObject* const* arguments, Py_ssize_t count, PyObject* names) {
    const Py_ssize_t num_named = names == nullptr ? 0 : PyTuple_GET_SIZE(names);
    if (count + num_named == 0) return Py_None;
    const bool is_known =
        num_named == 0 || PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "timeout") == 0;
    if (count + num_named == 1 && is_known) return arguments[0];
    throw py::type_error("take(timeout=None) takes no other arguments");
}

PyObject* take(PyObject* self, PyObject* const* arguments, Py_ssize_t count, PyObject* names) {
    return answer([&]() -> PyObject* {
        PyObject* const timeout = timeout_from(arguments, count, names);
        const Deadline deadline = deadline_from(timeout);
        ObjectRing& ring = ring_of(self);
        Taken<py::object> taken = try_take(ring);
        while (taken.outcome == Outcome::timeout) {
            Deadline found_at{};
            const bool is_there = wait_in_slices(deadline, [&](Deadline slice) {
                const bool found = ring.await_readable(slice);
                found_at = Clock::now();
                return found;
            });
            if (!is_there) {
                const std::string message = "take: ticket " + std::to_string(ring.head()) +
                                            " was not published within " + text(PyFloat_AsDouble(timeout)) +
                                            " s";
                PyErr_SetString(PyExc_TimeoutError, message.c_str());
                throw py::error_already_set();
            }
            const std::chrono::nanoseconds gil_wait = Clock::now() - found_at;
            ring.gil_wait_ns.fetch_add(static_cast<std::uint64_t>(gil_wait.count()),
                                       std::memory_order_relaxed);
            taken = ring.try_take();
        }
        return taken.item ? pair_from(taken) : Py_NewRef(Py_None);
    });
}

PyObject* take_ready(PyObject* self, PyObject* limit) {
    return answer([&] {
        const auto most = PyLong_AsLongLong(limit);
        if (most == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
        if (most < 1) refuse("take_ready: limit must be at least 1, not " + std::to_string(most));
        ObjectRing& ring = ring_of(self);
        py::list ready;
        for (Taken<py::object> taken = try_take(ring); taken.item; taken = ring.try_take()) {
            ready.append(py::reinterpret_steal<py::object>(pair_from(taken)));
            if (static_cast<std::int64_t>(ready.size()) >= most) break;
        }
        return ready.release().ptr();
    });
}

template <class Function>
PyMethodDef method(const char* name, Function* function, int flags, const char* doc) {
    return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function)), flags, doc};
}

// The first line of each text is the signature, where the stub's generator looks for it.
void add_methods(PyObject* type) {
    static PyMethodDef methods[] = {
        method("claim", claim, METH_O, R"(claim(self, __ticket: typing.SupportsIndex) -> bool

Feeder only; blocks until there is room. Tickets are 0, 1, 2, ... False once closed or cancelled.)"),
        method("try_claim", try_claim, METH_O, R"(try_claim(self, __ticket: typing.SupportsIndex) -> bool

Feeder only; never blocks. False: no room yet, or closed or cancelled.)"),
        method("publish", publish, METH_FASTCALL,
               R"(publish(self, __ticket: typing.SupportsIndex, __item: typing.Any) -> bool

Any thread, once for each claimed ticket; never blocks. False (and the item is dropped) once cancelled.)"),
        method("publish_next", publish_next, METH_O, R"(publish_next(self, __item: typing.Any) -> int

Any thread; never blocks. Draws the ticket now and returns it; -1 (and the item is dropped) once
cancelled. A ring uses either this or publish.)"),
        method("put", put, METH_FASTCALL, R"(put(self, *items: typing.Any) -> int

Feeder only: claims the next ticket for each item and publishes it there; blocks while there is no room.
Returns how many went in: fewer than there are once closed or cancelled. Interrupted by Ctrl-C, some are in.
What the consumer took last keeps its slots until it comes for more: a thread that is both must leave room.)"),
        method("take", take, METH_FASTCALL | METH_KEYWORDS,
               R"(take(self, timeout: float | None = None) -> tuple[int, typing.Any] | None

Consumer only; blocks until the next ticket in order is published, and returns it with its item.

Frees the slots of what was taken before: if it has to wait, then at once. None once closed and drained, or
cancelled. TimeoutError after `timeout` seconds.)"),
        method("take_ready", take_ready, METH_O,
               R"(take_ready(self, __limit: typing.SupportsIndex) -> list[tuple[int, typing.Any]]

Consumer only; never blocks. As many tickets with their items as are ready, up to `limit`, in order; frees
the slots of what was taken before. Empty: nothing is ready, or there is nothing to come.)"),
    };
    for (PyMethodDef& each : methods) {
        const auto descriptor = py::reinterpret_steal<py::object>(
            PyDescr_NewMethod(reinterpret_cast<PyTypeObject*>(type), &each));
        if (!descriptor) throw py::error_already_set();
        py::setattr(type, each.ml_name, descriptor);
    }
}

double seconds(std::uint64_t nanoseconds) { return static_cast<double>(nanoseconds) * 1e-9; }

double quantile(const Waits& waits, double share) {
    if (share >= 0 && share <= 1) return seconds(waits.quantile(share));
    refuse("share must be between 0 and 1, not " + text(share));
}

// Lets the garbage collector see the items: a published exception often leads back, through its traceback,
// to the frame that holds the ring.
int traverse(PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    if (!py::detail::is_holder_constructed(self)) return 0;
    int result = 0;
    py::cast<ObjectRing&>(py::handle(self)).for_each_item([&](const py::object& item) {
        if (result == 0) result = visit(item.ptr(), arg);
    });
    return result;
}

int clear(PyObject* self) {
    if (py::detail::is_holder_constructed(self)) py::cast<ObjectRing&>(py::handle(self)).cancel();
    return 0;
}

void collect_garbage_through(PyHeapTypeObject* heap_type) {
    PyTypeObject& type = heap_type->ht_type;
    type.tp_flags |= Py_TPFLAGS_HAVE_GC;
    type.tp_traverse = traverse;
    type.tp_clear = clear;
}

}  // namespace

void register_ring(py::module_& m) {
    py::class_<ObjectRing> ring(m, "Ring", py::custom_type_setup(collect_garbage_through),
                                R"(A bounded ring that hands objects over in the order of their tickets.

One feeder claims, any thread publishes, one consumer takes. At most `capacity` tickets are claimed and not
given back; what was taken is given back when the consumer comes for more. Waiting gives up the GIL; Ctrl-C
interrupts it.)");

    ring.def(
        py::init([](std::int64_t capacity) { return std::make_unique<ObjectRing>(capacity_from(capacity)); }),
        py::arg("capacity"));

    add_methods(ring.ptr());
    ring.def("close", &ObjectRing::close,
             "No more claims; tickets already claimed are still delivered. Wakes both sides; never blocks.");
    ring.def("cancel", &ObjectRing::cancel,
             "Drops what was not taken and refuses everything from now on. Wakes both sides; never blocks.");

    ring.def_property_readonly("capacity", &ObjectRing::capacity);
    ring.def_property_readonly("is_closed", &ObjectRing::is_closed);
    ring.def_property_readonly("is_cancelled", &ObjectRing::is_cancelled);
    ring.def_property_readonly(
        "blocked_claims", [](const ObjectRing& self) { return self.blocked_claims().tickets(); },
        "Tickets that the feeder had to wait for.");
    ring.def_property_readonly(
        "blocked_claim_s",
        [](const ObjectRing& self) { return seconds(self.blocked_claims().nanoseconds()); },
        "Seconds the feeder waited: the consumer is the slower side.");
    ring.def_property_readonly(
        "blocked_takes", [](const ObjectRing& self) { return self.blocked_takes().tickets(); },
        "Tickets that the consumer had to wait for, the end of the stream counted as one.");
    ring.def_property_readonly(
        "blocked_take_s", [](const ObjectRing& self) { return seconds(self.blocked_takes().nanoseconds()); },
        "Seconds the consumer waited: the publishers are the slower side.");
    ring.def(
        "blocked_claim_quantile",
        [](const ObjectRing& self, double share) { return quantile(self.blocked_claims(), share); },
        py::arg("share"), "Seconds that this share (0 to 1) of the feeder's waits did not exceed.");
    ring.def(
        "blocked_take_quantile",
        [](const ObjectRing& self, double share) { return quantile(self.blocked_takes(), share); },
        py::arg("share"), "Seconds that this share (0 to 1) of the consumer's waits did not exceed.");
    ring.def_property_readonly(
        "gil_wait_s", [](const ObjectRing& self) { return seconds(self.gil_wait_ns.load()); },
        "Seconds the consumer waited for the GIL with its item published already.");
    ring.def_property_readonly("occupancy", &ObjectRing::occupancy, "Items published and not taken, now.");
    ring.def_property_readonly(
        "occupancy_sum", &ObjectRing::occupancy_sum,
        "Sum, over the tickets taken, of the occupancy when the consumer came for each.");
    ring.def_property_readonly("takes", &ObjectRing::takes, "Tickets taken.");
}

}  // namespace penstock::bindings
