// Leaving the interpreter for a while, and coming back or not.

#pragma once

#include <pybind11/pybind11.h>
#include <unistd.h>

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

}  // namespace penstock::bindings
