// csrc/batch/collate.h against small matrices written out by hand.

#include "batch/collate.h"

#include <stdexcept>
#include <vector>

#include "check.h"

using penstock::check_rows;
using penstock::collate;
using penstock::pack;
using penstock::Packed;
using penstock::Padded;
using penstock::Ragged;

namespace {

using Matrix = std::vector<std::int64_t>;

const std::vector<std::int32_t> kIds = {11, 12, 13, 14, 15};
const std::vector<std::uint8_t> kTypes = {0, 0, 1, 1, 255};
const std::vector<std::int64_t> kStarts = {0, 3, 2};
const std::vector<std::int64_t> kStops = {3, 3, 4};

Ragged rows() { return {.ids = kIds, .starts = kStarts, .stops = kStops, .type_ids = {}}; }

// Filled with a number that must not survive.
Matrix unwritten() { return Matrix(12, -77); }

}  // namespace

TEST(padding_on_the_right) {
    Matrix ids = unwritten(), mask = unwritten(), types = unwritten(), positions = unwritten();
    Ragged typed = rows();
    typed.type_ids = kTypes;
    collate(typed, Padded<std::int64_t>{4, ids.data(), mask.data(), types.data(), positions.data()},
            {.id = 9, .type_id = 5});
    CHECK((ids == Matrix{11, 12, 13, 9, 9, 9, 9, 9, 13, 14, 9, 9}));
    CHECK((mask == Matrix{1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 0, 0}));
    CHECK((types == Matrix{0, 0, 1, 5, 5, 5, 5, 5, 1, 1, 5, 5}));
    CHECK((positions == Matrix{0, 1, 2, 0, 0, 0, 0, 0, 0, 1, 0, 0}));
}

TEST(padding_on_the_left) {
    Matrix ids = unwritten(), mask = unwritten(), types = unwritten(), positions = unwritten();
    collate(rows(), Padded<std::int64_t>{4, ids.data(), mask.data(), types.data(), positions.data()},
            {.id = 9, .type_id = 5, .left = true});
    CHECK((ids == Matrix{9, 11, 12, 13, 9, 9, 9, 9, 9, 9, 13, 14}));
    CHECK((mask == Matrix{0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1}));
    CHECK((types == Matrix{5, 0, 0, 0, 5, 5, 5, 5, 5, 5, 0, 0}));
    CHECK((positions == Matrix{0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 1}));
}

TEST(only_the_wanted_matrices_are_written) {
    Matrix ids = unwritten();
    collate(rows(), Padded<std::int64_t>{.width = 4, .input_ids = ids.data()}, {});
    CHECK((ids == Matrix{11, 12, 13, 0, 0, 0, 0, 0, 13, 14, 0, 0}));
}

TEST(negative_ids_and_large_types_keep_their_value) {
    const std::vector<std::int32_t> extremes = {-1, 2147483647, -2147483647 - 1};
    const std::vector<std::uint8_t> types = {255, 0, 128};
    const std::vector<std::int64_t> start = {0}, stop = {3};
    Matrix ids(3), out_types(3);
    collate({extremes, start, stop, types},
            Padded<std::int64_t>{.width = 3, .input_ids = ids.data(), .token_type_ids = out_types.data()},
            {});
    CHECK((ids == Matrix{-1, 2147483647, -2147483648LL}));
    CHECK((out_types == Matrix{255, 0, 128}));
}

TEST(matrices_may_be_of_half_the_size) {
    std::vector<std::int32_t> ids(12, -77), types(12, -77), positions(12, -77);
    Ragged typed = rows();
    typed.type_ids = kTypes;
    collate(typed, Padded<std::int32_t>{4, ids.data(), nullptr, types.data(), positions.data()},
            {.id = 9, .type_id = 5});
    CHECK((ids == std::vector<std::int32_t>{11, 12, 13, 9, 9, 9, 9, 9, 13, 14, 9, 9}));
    CHECK((types == std::vector<std::int32_t>{0, 0, 1, 5, 5, 5, 5, 5, 1, 1, 5, 5}));
    CHECK((positions == std::vector<std::int32_t>{0, 1, 2, 0, 0, 0, 0, 0, 0, 1, 0, 0}));
}

TEST(packed_rows_have_no_padding) {
    std::vector<std::int64_t> ids(5, -77), types(5, -77), positions(5, -77);
    std::vector<std::int32_t> ends(4, -77);
    Ragged typed = rows();
    typed.type_ids = kTypes;
    pack(typed, Packed<std::int64_t>{ids.data(), types.data(), positions.data(), ends.data(), 2});
    CHECK((ids == std::vector<std::int64_t>{11, 12, 13, 13, 14}));
    CHECK((types == std::vector<std::int64_t>{0, 0, 1, 1, 1}));
    CHECK((positions == std::vector<std::int64_t>{2, 3, 4, 2, 3}));
    CHECK((ends == std::vector<std::int32_t>{0, 3, 3, 5}));
    std::vector<std::int32_t> small(5, -77);
    pack(rows(), Packed<std::int32_t>{.token_type_ids = small.data()});
    CHECK((small == std::vector<std::int32_t>(5, 0)));
    pack({}, Packed<std::int64_t>{});
}

TEST(nothing_to_write_is_fine) {
    collate({}, Padded<std::int64_t>{}, {});
    const std::vector<std::int64_t> zero = {0, 0};
    check_rows({kIds, zero, zero, {}}, 0);
    collate({kIds, zero, zero, {}}, Padded<std::int64_t>{}, {});
}

TEST(rows_that_do_not_fit_are_refused_by_number) {
    const auto check = [](std::int64_t start, std::int64_t stop) {
        const std::vector<std::int64_t> starts = {0, start}, stops = {1, stop};
        check_rows({kIds, starts, stops, {}}, 3);
    };
    check(2, 5);
    check(5, 5);
    CHECK_THROWS(check(1, 5), std::invalid_argument,
                 "row [1] is ids[1:5], 4 tokens; the matrices hold 3 to a row");
    CHECK_THROWS(check(-1, 2), std::invalid_argument, "row [1] is ids[-1:2], which is not within the 5 ids");
    CHECK_THROWS(check(3, 2), std::invalid_argument, "not within");
    CHECK_THROWS(check(4, 6), std::invalid_argument, "not within");
}

CHECK_MAIN()
