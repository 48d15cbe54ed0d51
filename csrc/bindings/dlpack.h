// The part of the DLPack v0 exchange format that lend() writes: plain C structs, fixed by the
// specification (https://dmlc.github.io/dlpack/latest/c_api.html), so declared here instead of depended on.

#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace penstock::dlpack {

struct Device {
    std::int32_t device_type;  // 1 host, 2 CUDA, 3 CUDA pinned host, ...
    std::int32_t device_id;
};

struct DataType {
    std::uint8_t code;  // 0: integer, 1: unsigned, 2: float, 5: complex, 6: bool
    std::uint8_t bits;
    std::uint16_t lanes;
};

struct Tensor {
    void* data;
    Device device;
    std::int32_t ndim;
    DataType dtype;
    std::int64_t* shape;
    std::int64_t* strides;  // in elements
    std::uint64_t byte_offset;
};

// Whoever consumes the tensor calls deleter(self) once, from any thread, with or without the GIL.
struct ManagedTensor {
    Tensor tensor;
    void* context;
    void (*deleter)(ManagedTensor* self);
};

static_assert(std::is_standard_layout_v<ManagedTensor>, "the layout is an agreement between compilers");
static_assert(sizeof(void*) != 8 || (sizeof(Tensor) == 48 && sizeof(ManagedTensor) == 64),
              "the layout is that of the specification");

// A capsule carries this name until its tensor is consumed; the consumer renames it.
inline constexpr const char* kCapsuleName = "dltensor";

}  // namespace penstock::dlpack
