// The ring as it is, in many schedules of every scene of ring_scenes.h.
//
//     ring_schedules                    PENSTOCK_SCHEDULES of them for each scene, from seed 0 (default 12,000)
//     ring_schedules SCENE              one scene
//     ring_schedules SCENE SEED         one schedule, with its trace

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "check.h"
#include "ring_scenes.h"

namespace {

std::uint64_t schedules() {
    const char* const count = std::getenv("PENSTOCK_SCHEDULES");
    return count ? std::strtoull(count, nullptr, 10) : 12'000;
}

int replay(const Scene& scene, std::uint64_t seed) {
    world.tracing = true;
    std::string failure = "nothing failed";
    try {
        world.begin(seed);
        scene.play(seed);
    } catch (const sched::Failed& failed) {
        failure = "failed: " + failed.what;
    }
    std::printf("%s%s\n", world.trace().c_str(), failure.c_str());
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    std::uint64_t total = 0;
    for (const Scene& scene : kScenes) {
        if (argc > 1 && std::strcmp(argv[1], scene.name) != 0) continue;
        if (argc > 2) return replay(scene, std::strtoull(argv[2], nullptr, 10));
        std::printf("%s\n", scene.name);
        std::fflush(stdout);
        try {
            sched::explore(scene.name, 0, schedules(), scene.play);
        } catch (const sched::Failed& failed) {
            check::fail(__FILE__, __LINE__, failed.what);
        }
        total += schedules();
    }
    std::printf("%llu schedules passed\n", static_cast<unsigned long long>(total));
    return total > 0 ? 0 : 1;
}
