// Stacks to jump between, inside one thread of the system: what the scheduler of sched.h runs its threads on.

#pragma once

#include <ucontext.h>

#include <cstddef>
#include <memory>

// GCC says which sanitizer it builds for by a macro, Clang by a feature.
#if defined(__has_feature)
#if __has_feature(address_sanitizer) && !defined(__SANITIZE_ADDRESS__)
#define __SANITIZE_ADDRESS__ 1
#elif __has_feature(thread_sanitizer) && !defined(__SANITIZE_THREAD__)
#define __SANITIZE_THREAD__ 1
#endif
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#elif defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

// swapcontext() asks the system to keep the signal mask, which costs more than all the rest. Where the compiler
// can jump by itself we let it, except under sanitizers, which must follow every jump.
#if defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define PENSTOCK_QUICK_FIBERS 1
#else
#define PENSTOCK_QUICK_FIBERS 0
#endif

class Fiber {
  public:
    // The stack that the caller is on already.
    Fiber() : started_(true) {
#if defined(__SANITIZE_THREAD__)
        tsan_ = __tsan_get_current_fiber();
#endif
    }

    // A stack of its own; body() starts with the first switch, and must not return.
    explicit Fiber(void (*body)()) : stack_(new std::byte[kStack]) {
        getcontext(&context_);
        context_.uc_stack.ss_sp = stack_.get();
        context_.uc_stack.ss_size = kStack;
        context_.uc_link = nullptr;
        makecontext(&context_, body, 0);
        bottom_ = stack_.get();
        size_ = kStack;
#if defined(__SANITIZE_THREAD__)
        tsan_ = __tsan_create_fiber(0);
#endif
    }

    Fiber(const Fiber&) = delete;
    Fiber& operator=(const Fiber&) = delete;

    ~Fiber() {
#if defined(__SANITIZE_THREAD__)
        if (stack_) __tsan_destroy_fiber(tsan_);
#endif
    }

    // Called on this fiber; returns when somebody switches back to it.
    void switch_to(Fiber& next) {
#if PENSTOCK_QUICK_FIBERS
        if (__builtin_setjmp(state_) == 0) jump(next);
#elif defined(__SANITIZE_ADDRESS__)
        leaving() = this;
        __sanitizer_start_switch_fiber(&fake_, next.bottom_, next.size_);
        swapcontext(&context_, &next.context_);
        arrive();
#else
#if defined(__SANITIZE_THREAD__)
        __tsan_switch_to_fiber(next.tsan_, 0);
#endif
        swapcontext(&context_, &next.context_);
#endif
    }

    // The first thing that a body does.
    void arrive() {
#if defined(__SANITIZE_ADDRESS__)
        // Whoever left to come here lies on this stack: now its bounds are known, the first thread's too.
        __sanitizer_finish_switch_fiber(fake_, &leaving()->bottom_, &leaving()->size_);
#endif
    }

  private:
    static constexpr std::size_t kStack = 256 * 1024;

#if PENSTOCK_QUICK_FIBERS
    [[gnu::noinline, noreturn]] static void jump(Fiber& next) {
        if (next.started_) __builtin_longjmp(next.state_, 1);
        next.started_ = true;
        setcontext(&next.context_);
        __builtin_unreachable();
    }
    void* state_[5] = {};
#elif defined(__SANITIZE_ADDRESS__)
    static Fiber*& leaving() {
        static Fiber* fiber = nullptr;
        return fiber;
    }
    void* fake_ = nullptr;
#elif defined(__SANITIZE_THREAD__)
    void* tsan_ = nullptr;
#endif
    [[maybe_unused]] bool started_ = false;
    ucontext_t context_{};
    std::unique_ptr<std::byte[]> stack_;
    const void* bottom_ = nullptr;
    std::size_t size_ = 0;
};
