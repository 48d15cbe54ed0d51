// lend(): memory that somebody else owns, as a DLPack capsule; the owner is told when nobody looks any more.

#include <pybind11/stl.h>

#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings/dlpack.h"
#include "bindings/gil.h"
#include "bindings/register.h"

namespace penstock::bindings {
namespace {

using dlpack::ManagedTensor;

// A tensor, the numbers it points to, the reference that keeps its memory alive, and whom to tell.
struct Loan {
    ManagedTensor managed{};
    std::vector<std::int64_t> shape;
    std::vector<std::int64_t> strides;
    PyObject* owner = nullptr;
    PyObject* at_end = nullptr;  // or none
};

// Runs when the last tensor, view or array over the memory dies: in any thread, with or without the GIL.
// While the interpreter shuts down the GIL may never come back, so the reference is left to the end of
// the process.
void end_loan(ManagedTensor* managed) {
    const std::unique_ptr<Loan> loan(static_cast<Loan*>(managed->context));
    if (Py_IsInitialized() == 0 || interpreter_is_finalizing()) return;
    const PyGILState_STATE state = PyGILState_Ensure();
    // This may be the middle of somebody's error handling; the owner's last words must not disturb it.
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    if (loan->at_end != nullptr) {
        PyObject* const result = PyObject_CallOneArg(loan->at_end, loan->owner);
        if (result == nullptr) PyErr_WriteUnraisable(loan->at_end);
        Py_XDECREF(result);
        Py_DECREF(loan->at_end);
    }
    Py_DECREF(loan->owner);
    PyErr_Restore(type, value, traceback);
    PyGILState_Release(state);
}

// The capsule dies. If nobody consumed its tensor (and renamed the capsule), the loan ends here.
void drop_capsule(PyObject* capsule) {
    if (PyCapsule_IsValid(capsule, dlpack::kCapsuleName) == 0) return;
    auto* managed = static_cast<ManagedTensor*>(PyCapsule_GetPointer(capsule, dlpack::kCapsuleName));
    managed->deleter(managed);
}

void check_memory(std::uint64_t address, std::int64_t num_bytes, int device_type, int device_id) {
    if (num_bytes < 0)
        throw py::value_error("lend: num_bytes must be at least 0, not " + std::to_string(num_bytes));
    if (address == 0 && num_bytes > 0) {
        throw py::value_error("lend: address is 0, which holds no " + std::to_string(num_bytes) + " bytes");
    }
    if (device_type < 1 || device_id < 0) {
        throw py::value_error(
            "lend: device must be a DLPack device type (1 host, 2 CUDA, ...) and a number from 0, not " +
            std::to_string(device_type) + " and " + std::to_string(device_id));
    }
}

using Shape = std::vector<std::int64_t>;

// An array of this shape takes exactly the bytes that are lent.
void check_shape(const Shape& shape, std::int64_t num_bytes, int itemsize) {
    if (itemsize < 1 || itemsize > 16) {
        throw py::value_error("lend: itemsize must be 1 to 16, not " + std::to_string(itemsize));
    }
    std::int64_t wanted = itemsize;
    for (const std::int64_t size : shape) {
        if (size < 0 || (size > 0 && wanted > std::numeric_limits<std::int64_t>::max() / size)) {
            throw py::value_error("lend: no array has a side of " + std::to_string(size));
        }
        wanted *= size;
    }
    if (wanted != num_bytes) {
        throw py::value_error("lend: the shape takes " + std::to_string(wanted) + " bytes; num_bytes is " +
                              std::to_string(num_bytes));
    }
}

Shape strides_of(const Shape& shape) {
    Shape strides(shape.size());
    std::int64_t stride = 1;
    for (std::size_t axis = shape.size(); axis-- > 0;) {
        strides[axis] = stride;
        stride *= shape[axis];
    }
    return strides;
}

py::object lend(std::uint64_t address, std::int64_t num_bytes, int device_type, int device_id,
                const py::object& owner, const py::object& at_end, std::optional<Shape> shape, int type_code,
                int itemsize) {
    check_memory(address, num_bytes, device_type, device_id);
    auto loan = std::make_unique<Loan>();
    loan->shape = shape ? *std::move(shape) : Shape{num_bytes};
    check_shape(loan->shape, num_bytes, itemsize);
    loan->strides = strides_of(loan->shape);
    loan->managed.tensor = {.data = reinterpret_cast<void*>(address),
                            .device = {device_type, device_id},
                            .ndim = static_cast<std::int32_t>(loan->shape.size()),
                            .dtype = {.code = static_cast<std::uint8_t>(type_code),
                                      .bits = static_cast<std::uint8_t>(8 * itemsize),
                                      .lanes = 1},
                            .shape = loan->shape.data(),
                            .strides = loan->strides.data(),
                            .byte_offset = 0};
    loan->managed.context = loan.get();
    loan->managed.deleter = end_loan;
    loan->owner = owner.ptr();
    PyObject* const capsule = PyCapsule_New(&loan->managed, dlpack::kCapsuleName, drop_capsule);
    if (capsule == nullptr) throw py::error_already_set();
    Py_INCREF(loan->owner);
    if (!at_end.is_none()) {
        loan->at_end = at_end.ptr();
        Py_INCREF(loan->at_end);
    }
    loan.release();  // the capsule's, until its tensor is consumed
    return py::reinterpret_steal<py::object>(capsule);
}

}  // namespace

void register_lend(py::module_& m) {
    m.def(
        "lend", lend, py::arg("address"), py::arg("num_bytes"), py::arg("device_type"), py::arg("device_id"),
        py::arg("owner"), py::arg("at_end") = py::none(), py::arg("shape") = py::none(),
        py::arg("type_code") = 1, py::arg("itemsize") = 1,
        R"(Memory as a DLPack capsule: a tensor of `num_bytes` bytes at `address`, one-dimensional and uint8 if
nothing else is said: `shape`, DLPack's `type_code` (0 int, 1 unsigned, 2 float, 5 complex, 6 bool), `itemsize` in bytes.

Keeps `owner` alive until the last tensor, view or array over the memory dies, in whatever thread, or until
the capsule dies unused; then calls `at_end(owner)`, if there is one, in that thread. A built-in such as
`deque.append` runs there without a step of the interpreter, so no signal handler can come between. The
memory must stay valid for as long as `owner` lives.)");
}

}  // namespace penstock::bindings
