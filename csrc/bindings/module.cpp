// The table of contents of penstock._core. Everything else is in the file of its name.

#include "bindings/register.h"

namespace penstock::bindings {

// Items of a ring move between threads under the GIL, and only there: hence mod_gil_used.
PYBIND11_MODULE(_core, m, py::mod_gil_used()) {
    m.doc() = "The compiled part of Penstock. Private: use the package's own names.";
    register_ring(m);
    register_rows(m);
    register_collate(m);
    register_lend(m);
    register_models(m);
    register_tokenizer(m);
}

}  // namespace penstock::bindings
