// All that these tests need of a test library. Checks stay on in every build type.
//
//     TEST(an_empty_ring_has_nothing_to_take) { CHECK(...); }
//
// A test program runs its tests in order, or those whose name contains its argument. The first failure
// ends the process: a check may fail in any thread, and what comes after it would mean nothing.

#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace check {

struct Test {
    const char* name;
    void (*run)();
};

inline std::vector<Test>& tests() {
    static std::vector<Test> all;
    return all;
}

struct Registered {
    Registered(const char* name, void (*run)()) { tests().push_back({name, run}); }
};

[[noreturn]] inline void fail(const char* file, int line, const std::string& what) {
    std::fprintf(stderr, "%s:%d: failed: %s\n", file, line, what.c_str());
    std::fflush(stderr);
    std::_Exit(1);
}

inline int run_all(int argc, char** argv) {
    int ran = 0;
    for (const Test& test : tests()) {
        if (argc > 1 && std::strstr(test.name, argv[1]) == nullptr) continue;
        std::printf("%s\n", test.name);
        std::fflush(stdout);
        test.run();
        ++ran;
    }
    std::printf("%d passed\n", ran);
    return ran > 0 ? 0 : 1;
}

}  // namespace check

#define TEST(name)                                                 \
    static void name();                                            \
    static const check::Registered registered_##name(#name, name); \
    static void name()

#define CHECK(condition)                                               \
    do {                                                               \
        if (!(condition)) check::fail(__FILE__, __LINE__, #condition); \
    } while (false)

// The statement throws Exception, and its message contains text.
#define CHECK_THROWS(statement, Exception, text)                                                \
    do {                                                                                        \
        bool thrown = false;                                                                    \
        try {                                                                                   \
            statement;                                                                          \
        } catch (const Exception& error) {                                                      \
            thrown = true;                                                                      \
            if (std::string(error.what()).find(text) == std::string::npos) {                    \
                check::fail(__FILE__, __LINE__, std::string("message is: ") + error.what());    \
            }                                                                                   \
        }                                                                                       \
        if (!thrown) check::fail(__FILE__, __LINE__, #statement " does not throw " #Exception); \
    } while (false)

#define CHECK_MAIN() \
    int main(int argc, char** argv) { return check::run_all(argc, argv); }
