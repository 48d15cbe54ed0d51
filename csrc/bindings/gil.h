// Leaving the interpreter for a while, and coming back or not.

#pragma once

#include <pybind11/pybind11.h>
#include <unistd.h>

#include <utility>

namespace penstock::bindings {

inline bool interpreter_is_finalizing() {
#if PY_VERSION_HEX >= 0x030D0000
    return Py_IsFinalizing() != 0;
#else
    return _Py_IsFinalizing() != 0;
#endif
}

// Runs work() without the GIL and returns its result. work() must touch no Python object and not throw.
//
// Not py::gil_scoped_release: that takes the GIL again in a destructor, and a daemon thread that wakes while
// the interpreter shuts down is ended there by force, which a destructor turns into an abort of the process.
// Here such a thread stays asleep for what little time is left, as Python 3.14 does it.
template <class Work>
auto without_gil(Work work) {
    PyThreadState* const state = PyEval_SaveThread();
    auto result = work();
    while (interpreter_is_finalizing()) pause();
    PyEval_RestoreThread(state);
    return result;
}

// Runs work() and returns its result; without the GIL if it is long enough to be worth that.
//
// Where several threads want the GIL, giving it up means to queue for it afterwards, behind all of them: for work
// of a few microseconds the others are better off waiting.
template <class Work>
auto without_gil_if(bool is_long, Work work) {
    return is_long ? without_gil(std::move(work)) : work();
}

}  // namespace penstock::bindings
