// Runs code from the inside of a move: a place between two steps of the ring's own code.

#pragma once

#include <functional>
#include <utility>

class Tripwire {
  public:
    Tripwire() = default;
    Tripwire(Tripwire&&) noexcept { moved(); }
    Tripwire(const Tripwire&) = delete;
    Tripwire& operator=(const Tripwire&) = delete;
    Tripwire& operator=(Tripwire&&) = delete;
    ~Tripwire() = default;

    // The next move of any tripwire runs `action`, once.
    static void arm(std::function<void()> action) { armed() = std::move(action); }

  private:
    static std::function<void()>& armed() {
        static std::function<void()> action;
        return action;
    }
    static void moved() {
        if (const auto action = std::exchange(armed(), nullptr)) action();
    }
};
