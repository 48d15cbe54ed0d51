// Do the tests notice? Each control weakens one line of the protocol by one step, and CMakeLists.txt expects the
// failure that this causes in a scene of ring_scenes.h.
//
//     ring_controls CONTROL
//     ring_controls --complete PARK.H RING.H README.MD CMAKELISTS.TXT      is anything without a control?

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>

#include "check.h"
#include "ring_scenes.h"

namespace {

constexpr auto relaxed = std::memory_order_relaxed;
constexpr auto acquire = std::memory_order_acquire;
constexpr auto release = std::memory_order_release;
constexpr auto acq_rel = std::memory_order_acq_rel;
constexpr std::uint64_t kSeeds = 100'000;

struct Control {
    const char* name;  // the constant, and what becomes of it
    void (*weaken)();
    const char* scene;
};

#define CONTROL(constant, value, scene)                                \
    Control {                                                          \
        #constant "-" #value, [] { Tunable::constant = value; }, scene \
    }

constexpr bool off = false;

constexpr Control kControls[] = {
    CONTROL(kAnnounce, acq_rel, "deliver"),
    CONTROL(kReadEpoch, relaxed, "bell"),
    CONTROL(kLookForSleepers, acquire, "deliver"),
    CONTROL(kTurnEpoch, relaxed, "bell"),
    CONTROL(kLooksAgain, off, "deliver"),
    CONTROL(kTurnsEpoch, off, "deliver"),
    CONTROL(kWakes, off, "deliver"),
    CONTROL(kWakerQueues, off, "portable"),
    CONTROL(kClaimReadsGate, relaxed, "close"),
    CONTROL(kClaimReadsSlot, relaxed, "try-only"),
    CONTROL(kClaim, relaxed, "poll"),
    CONTROL(kFeederLooksAtGate, acquire, "cancel"),
    CONTROL(kFeederLooksAtSlot, acquire, "deliver"),
    CONTROL(kPublishReadsGate, relaxed, "poll"),
    CONTROL(kPublish, relaxed, "deliver"),
    CONTROL(kPublish, release, "deliver"),
    CONTROL(kPublisherLooksAtHead, acquire, "deliver"),
    CONTROL(kPublisherLooksAtGate, acquire, "cancel"),
    CONTROL(kDrawReadsNext, relaxed, "draw"),
    CONTROL(kDrawReadsGate, relaxed, "cancel-draw"),
    CONTROL(kDraw, relaxed, "draw"),
    CONTROL(kPublisherWakes, off, "deliver"),
    CONTROL(kPublisherLooksBack, off, "cancel"),
    CONTROL(kTakeReadsGate, relaxed, "close"),
    CONTROL(kTakeReadsSlot, relaxed, "try-only"),
    CONTROL(kTake, relaxed, "strangers"),
    CONTROL(kTake, release, "deliver"),
    CONTROL(kConsumerLooksAtGate, acquire, "close"),
    CONTROL(kConsumerLooksAtSlot, acquire, "deliver"),
    CONTROL(kRecycleReadsHead, relaxed, "strangers"),
    CONTROL(kRecycle, relaxed, "deliver"),
    CONTROL(kRecycle, acq_rel, "deliver"),
    CONTROL(kRecyclerWakes, off, "deliver"),
    CONTROL(kShut, relaxed, "close"),
    CONTROL(kShut, acq_rel, "close"),
    CONTROL(kSweepReadsSlot, relaxed, "cancel"),
    CONTROL(kSweepReadsSlot, acquire, "cancel"),
    CONTROL(kEvict, relaxed, "cancel"),
    CONTROL(kEvict, acquire, "cancel"),
    CONTROL(kEvict, release, "cancel"),
    CONTROL(kAskGate, relaxed, "spectator"),
    CONTROL(kCountTakes, relaxed, "spectator"),
    CONTROL(kShutWakesConsumer, off, "close"),
    CONTROL(kShutWakesFeeder, off, "cancel"),
};

const Scene& scene_of(const Control& control) {
    for (const Scene& scene : kScenes) {
        if (std::strcmp(scene.name, control.scene) == 0) return scene;
    }
    check::fail(__FILE__, __LINE__, std::string("no scene is called ") + control.scene);
}

void run(const Control& control) {
    control.weaken();
    const Scene& scene = scene_of(control);
    try {
        sched::explore(scene.name, 0, kSeeds, scene.play);
    } catch (const sched::Failed& failed) {
        check::fail(__FILE__, __LINE__, failed.what);
    }
    std::printf("%s: nothing noticed\n", control.name);
}

std::string read(const char* path) {
    std::ifstream file(path);
    if (!file) check::fail(__FILE__, __LINE__, std::string("cannot read ") + path);
    return {std::istreambuf_iterator<char>(file), {}};
}

void check_has_control(const std::string& name, const std::string& table, const char* readme) {
    const auto weakens = [&](const Control& control) {
        return std::string(control.name).find(name + "-") == 0;
    };
    if (std::none_of(std::begin(kControls), std::end(kControls), weakens)) {
        check::fail(__FILE__, __LINE__, name + " has no control");
    }
    if (table.find("`" + name + "`") == std::string::npos) {
        check::fail(__FILE__, __LINE__, name + " is not in " + readme);
    }
}

// Nothing is left out: every constant of Wakes and Protocol has a control, and a row in the table of the README, and
// every control is a test.
void check_complete(const char* park_h, const char* ring_h, const char* readme, const char* tests) {
    const std::string code = read(park_h) + read(ring_h), table = read(readme), list = read(tests);
    int constants = 0;
    for (const std::string prefix : {"static constexpr std::memory_order ", "static constexpr bool "}) {
        for (std::size_t at = code.find(prefix); at != std::string::npos; at = code.find(prefix, at + 1)) {
            const std::size_t begin = at + prefix.size();
            check_has_control(code.substr(begin, code.find(' ', begin) - begin), table, readme);
            ++constants;
        }
    }
    CHECK(constants > 30);
    for (const Control& control : kControls) {
        if (list.find(std::string(control.name) + " ") == std::string::npos) {
            check::fail(__FILE__, __LINE__, std::string(control.name) + " is not in " + tests);
        }
    }
    std::printf("%d constants, %zu controls\n", constants, std::size(kControls));
}

}  // namespace

int main(int argc, char** argv) {
    if (argc == 6 && std::strcmp(argv[1], "--complete") == 0) {
        check_complete(argv[2], argv[3], argv[4], argv[5]);
        return 0;
    }
    for (const Control& control : kControls) {
        if (argc != 2 || std::strcmp(argv[1], control.name) != 0) continue;
        run(control);
        return 0;
    }
    std::fprintf(stderr, "usage: ring_controls CONTROL\n");
    return 2;
}
