// penstock._core.Ring: the ring of csrc/ring with Python objects as items.
//
// Who holds the GIL: every call that moves or drops an item does, so reference counts are safe. The two
// waits give it up, in slices of 20 ms, and look for signals between the slices.

#include "ring/ring.h"

#include <pybind11/stl.h>

#include <cmath>
#include <string>

#include "bindings/gil.h"
#include "bindings/register.h"

namespace penstock::bindings {
namespace {

using ObjectRing = Ring<py::object>;

constexpr auto kSlice = std::chrono::milliseconds(20);
constexpr double kForever = 1e9;  // seconds; about thirty years

[[noreturn]] void refuse(const std::string& message) { throw py::value_error(message); }

std::size_t capacity_from(std::int64_t capacity) {
    if (capacity >= 0) return static_cast<std::size_t>(capacity);
    refuse("capacity must be at least 1, not " + std::to_string(capacity));
}

Ticket ticket_from(const char* call, std::int64_t ticket) {
    if (ticket >= 0) return static_cast<Ticket>(ticket);
    refuse(std::string(call) + ": ticket " + std::to_string(ticket) + " is negative; tickets count from 0");
}

std::string text(double number) { return py::str(py::float_(number)); }

Deadline deadline_from(std::optional<double> timeout) {
    if (!timeout) return Deadline::max();
    if (std::isnan(*timeout) || *timeout < 0) {
        refuse("take: timeout must be None or at least 0 seconds, not " + text(*timeout));
    }
    if (*timeout >= kForever) return Deadline::max();
    const std::chrono::duration<double> seconds(*timeout);
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

bool claim(ObjectRing& ring, std::int64_t number) {
    const Ticket ticket = ticket_from("claim", number);
    Outcome outcome = ring.try_claim(ticket);
    while (outcome == Outcome::timeout) {
        wait_in_slices(Deadline::max(), [&](Deadline slice) { return ring.await_writable(ticket, slice); });
        outcome = ring.try_claim(ticket);
    }
    return outcome == Outcome::ok;
}

using Handed = std::optional<std::pair<Ticket, py::object>>;

Handed hand_over(Taken<py::object> taken) {
    if (!taken.item) return std::nullopt;
    return std::pair(taken.ticket, *std::move(taken.item));
}

Handed take(ObjectRing& ring, std::optional<double> timeout) {
    const Deadline deadline = deadline_from(timeout);
    Taken<py::object> taken = ring.try_take();
    while (taken.outcome == Outcome::timeout) {
        if (!wait_in_slices(deadline, [&](Deadline slice) { return ring.await_readable(slice); })) {
            const std::string message = "take: ticket " + std::to_string(ring.head()) +
                                        " was not published within " + text(*timeout) + " s";
            PyErr_SetString(PyExc_TimeoutError, message.c_str());
            throw py::error_already_set();
        }
        taken = ring.try_take();
    }
    return hand_over(std::move(taken));
}

std::int64_t publish_next(ObjectRing& ring, py::object item) {
    const std::optional<Ticket> ticket = ring.publish_next(std::move(item));
    return ticket ? static_cast<std::int64_t>(*ticket) : -1;
}

double seconds(const Waits& waits) { return static_cast<double>(waits.nanoseconds()) * 1e-9; }

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

One feeder claims, any thread publishes, one consumer takes and recycles. At most `capacity` tickets
are claimed and not recycled. Waiting gives up the GIL; Ctrl-C interrupts it.)");

    ring.def(
        py::init([](std::int64_t capacity) { return std::make_unique<ObjectRing>(capacity_from(capacity)); }),
        py::arg("capacity"));

    ring.def(
        "claim", claim, py::arg("ticket"),
        "Feeder only; blocks until there is room. Tickets are 0, 1, 2, ... False once closed or cancelled.");
    ring.def(
        "try_claim",
        [](ObjectRing& self, std::int64_t ticket) {
            return self.try_claim(ticket_from("try_claim", ticket)) == Outcome::ok;
        },
        py::arg("ticket"), "Feeder only; never blocks. False: no room yet, or closed or cancelled.");
    ring.def(
        "publish",
        [](ObjectRing& self, std::int64_t ticket, py::object item) {
            return self.publish(ticket_from("publish", ticket), std::move(item));
        },
        py::arg("ticket"), py::arg("item"),
        R"(Any thread, once for each claimed ticket; never blocks. False (and the item is dropped) once cancelled.)");
    ring.def(
        "publish_next", publish_next, py::arg("item"),
        R"(Any thread; never blocks. Draws the ticket now and returns it; -1 (and the item is dropped) once
cancelled. A ring uses either this or publish.)");
    ring.def(
        "take", take, py::arg("timeout") = py::none(),
        R"(Consumer only; blocks until the next ticket in order is published, and returns it with its item.

None once closed and drained, or cancelled. TimeoutError after `timeout` seconds.)");
    ring.def(
        "try_take", [](ObjectRing& self) { return hand_over(self.try_take()); },
        "Consumer only; never blocks. None: nothing is ready, or there is nothing to come.");
    ring.def(
        "recycle",
        [](ObjectRing& self, std::int64_t ticket) { self.recycle(ticket_from("recycle", ticket)); },
        py::arg("ticket"),
        "Frees the slot of a ticket that was taken, once; never blocks. Any thread, any order.");
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
        "blocked_claim_s", [](const ObjectRing& self) { return seconds(self.blocked_claims()); },
        "Seconds the feeder waited: the consumer is the slower side.");
    ring.def_property_readonly(
        "blocked_takes", [](const ObjectRing& self) { return self.blocked_takes().tickets(); },
        "Tickets that the consumer had to wait for, the end of the stream counted as one.");
    ring.def_property_readonly(
        "blocked_take_s", [](const ObjectRing& self) { return seconds(self.blocked_takes()); },
        "Seconds the consumer waited: the publishers are the slower side.");
    ring.def_property_readonly("occupancy", &ObjectRing::occupancy, "Items published and not taken, now.");
    ring.def_property_readonly(
        "occupancy_sum", &ObjectRing::occupancy_sum,
        "Sum, over the tickets taken, of the occupancy when the consumer came for each.");
    ring.def_property_readonly("takes", &ObjectRing::takes, "Tickets taken.");
}

}  // namespace penstock::bindings
