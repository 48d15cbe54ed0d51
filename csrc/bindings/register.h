// One function per concept; module.cpp calls them.

#pragma once

#include <pybind11/pybind11.h>

namespace penstock::bindings {

namespace py = pybind11;

void register_ring(py::module_& m);
void register_rows(py::module_& m);
void register_collate(py::module_& m);
void register_lend(py::module_& m);
void register_models(py::module_& m);
void register_tokenizer(py::module_& m);

}  // namespace penstock::bindings
