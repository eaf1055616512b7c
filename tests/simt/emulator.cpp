// The scheduler behind cuda_runtime.h: fibers, barriers, poison and guards.
#include "cuda_runtime.h"

#include <sys/mman.h>
#include <torch/csrc/stable/library.h>
#include <ucontext.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <random>
#include <sstream>
#include <stdexcept>

namespace simt {
namespace {

constexpr size_t kStack = 128 * 1024;
constexpr size_t kMostShared = 227 * 1024;
constexpr int64_t kGuard = 64;  // elements before and after a new tensor
constexpr uint8_t kPoison = 0xff, kMark = 0xa5;

enum class State { ready, at_block, at_warp, ended };

struct Fiber {
  Thread thread;
  State state = State::ready;
  Sync kind = Sync::warp;
  unsigned int mask = 0;
  int line = 0;
  uint64_t mine = 0;
  uint64_t all[32] = {};
  bool any = false;
  void* stack_pointer = nullptr;
};

// ---- switching between fibers: callee-saved registers on the stack, then another stack

#if defined(__x86_64__)
extern "C" void simt_switch(void** from, void* to);
asm(R"(
.text
.globl simt_switch
.hidden simt_switch
.type simt_switch,@function
simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size simt_switch,.-simt_switch
)");

void* prepare(uint8_t* stack, void (*entry)()) {
  auto* top = reinterpret_cast<void**>(stack + kStack) - 1;  // aligned as after a call
  *top = nullptr;
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  return top;
}
void leave(void** from, void* to) { simt_switch(from, to); }
#else  // slower, everywhere
void* prepare(uint8_t* stack, void (*entry)()) {
  auto* context = new ucontext_t;
  getcontext(context);
  context->uc_stack.ss_sp = stack;
  context->uc_stack.ss_size = kStack;
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
  return context;
}
void leave(void** from, void* to) {
  if (*from == nullptr) *from = new ucontext_t;
  swapcontext(static_cast<ucontext_t*>(*from), static_cast<ucontext_t*>(to));
}
#endif

struct Guarded {
  torch::stable::Tensor whole;  // keeps the memory
  uint8_t* begin;
  size_t before, inside;
};

struct Machine {
  const char* name = "";
  const std::function<void()>* kernel = nullptr;
  std::vector<Fiber> fibers;
  Fiber* running = nullptr;
  void* scheduler = nullptr;
  uint8_t* stacks = nullptr;
  size_t stack_count = 0;
  std::vector<void*> claimed;  // shared arrays that this block has met
  std::unique_ptr<uint8_t[]> shared{new uint8_t[kMostShared]};
  std::vector<Guarded> guarded;
  int64_t schedule = 0;  // 0: in order, 1: in reverse, others: a seed
  std::mt19937_64 random;
  int64_t launches = 0;
} machine;

void yield() {
  Fiber* fiber = machine.running;
  leave(&fiber->stack_pointer, machine.scheduler);
}

void enter() {
  (*machine.kernel)();
  machine.running->state = State::ended;
  yield();
  abort();  // nobody runs an ended fiber
}

[[noreturn]] void fail(const std::string& what) {
  std::ostringstream said;
  said << "kernel " << machine.name << ": " << what;
  throw std::runtime_error(said.str());
}

std::string where(const Fiber& fiber) {
  std::ostringstream said;
  said << "thread " << fiber.thread.thread.x << " of block " << fiber.thread.block.x;
  if (fiber.state == State::ended) said << " has ended";
  if (fiber.state == State::at_block) said << " waits for its block in line " << fiber.line;
  if (fiber.state == State::at_warp) said << " waits for its warp in line " << fiber.line;
  return said.str();
}

std::vector<size_t> order_of(size_t count) {
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t{0});
  if (machine.schedule == 1) std::reverse(order.begin(), order.end());
  if (machine.schedule > 1) std::shuffle(order.begin(), order.end(), machine.random);
  return order;
}

// Lets those go on whose partners have all come. Gives whether there were any.
bool release_warps() {
  bool any = false;
  auto& fibers = machine.fibers;
  for (size_t base = 0; base < fibers.size(); base += 32) {
    const size_t lanes = std::min<size_t>(32, fibers.size() - base);
    for (size_t i = 0; i < lanes; ++i) {
      Fiber& one = fibers[base + i];
      if (one.state != State::at_warp) continue;
      if (!(one.mask >> i & 1)) fail(where(one) + " and is not in its own mask");
      bool all_there = true;
      for (size_t j = 0; j < 32; ++j) {
        if (!(one.mask >> j & 1)) continue;
        if (j >= lanes || fibers[base + j].state == State::ended) {
          fail(where(one) + " with a lane that " + (j < lanes ? "has ended" : "is not there"));
        }
        const Fiber& other = fibers[base + j];
        if (other.state != State::at_warp) {
          all_there = false;
        } else if (other.kind != one.kind || other.mask != one.mask || other.line != one.line) {
          fail(where(one) + " while " + where(other));
        }
      }
      if (!all_there) continue;
      uint64_t brought[32] = {};
      for (size_t j = 0; j < lanes; ++j) brought[j] = one.mask >> j & 1 ? fibers[base + j].mine : ~uint64_t{0};
      const unsigned int mask = one.mask;
      for (size_t j = 0; j < lanes; ++j) {
        if (!(mask >> j & 1)) continue;
        memcpy(fibers[base + j].all, brought, sizeof(brought));
        fibers[base + j].state = State::ready;
      }
      any = true;
    }
  }
  return any;
}

bool release_block() {
  const Fiber* first = nullptr;
  bool value = false;
  for (const Fiber& fiber : machine.fibers) {
    if (fiber.state == State::ended) continue;
    if (fiber.state != State::at_block) return false;
    if (first != nullptr && fiber.line != first->line) fail(where(*first) + " while " + where(fiber));
    if (first == nullptr) first = &fiber;
    value |= fiber.mine != 0;
  }
  if (first == nullptr) return false;
  for (Fiber& fiber : machine.fibers) {
    if (fiber.state != State::at_block) continue;
    fiber.any = value;
    fiber.state = State::ready;
  }
  return true;
}

void check_guards() {
  for (const Guarded& item : machine.guarded) {
    const size_t total = 2 * item.before + item.inside;
    for (size_t i = 0; i < total; ++i) {
      if (i == item.before) i += item.inside;
      if (i < total && item.begin[i] != kMark) {
        std::ostringstream said;
        said << "writes " << (i < item.before ? "before" : "behind") << " a tensor of " << item.inside << " bytes";
        fail(said.str());
      }
    }
  }
}

void run_block(Dim grid, Dim block, unsigned int number, size_t shared) {
  machine.fibers.assign(block.x, Fiber{});
  machine.claimed.clear();
  memset(machine.shared.get(), kPoison, shared);
  for (unsigned int i = 0; i < block.x; ++i) {
    Fiber& fiber = machine.fibers[i];
    fiber.thread.thread.x = i;
    fiber.thread.block.x = number;
    fiber.thread.block_dim = block;
    fiber.thread.grid_dim = grid;
    fiber.stack_pointer = prepare(machine.stacks + i * kStack, enter);
  }
  for (size_t left = block.x; left > 0;) {
    bool moved = false;
    for (const size_t i : order_of(block.x)) {
      Fiber& fiber = machine.fibers[i];
      if (fiber.state != State::ready) continue;
      machine.running = &fiber;
      leave(&machine.scheduler, fiber.stack_pointer);
      moved = true;
      left -= fiber.state == State::ended;
    }
    if (left == 0) break;
    if (!release_warps() && !release_block() && !moved) {
      std::string first;
      for (const Fiber& fiber : machine.fibers) {
        if (fiber.state == State::ended) continue;
        if (first.empty()) {
          first = where(fiber);
        } else if (where(fiber).substr(where(fiber).find(" waits")) != first.substr(first.find(" waits"))) {
          fail(first + " while " + where(fiber));
        }
      }
      fail(first + " for ever");
    }
  }
}

}  // namespace

Thread& now() { return machine.running->thread; }

void meet(unsigned int mask, Sync kind, int line, uint64_t mine, uint64_t (&all)[32]) {
  Fiber* fiber = machine.running;
  fiber->state = State::at_warp;
  fiber->kind = kind;
  fiber->mask = mask;
  fiber->line = line;
  fiber->mine = mine;
  yield();
  memcpy(all, fiber->all, sizeof(all));
}

bool meet_block(bool mine, int line) {
  Fiber* fiber = machine.running;
  fiber->state = State::at_block;
  fiber->line = line;
  fiber->mine = mine;
  yield();
  return fiber->any;
}

void claim_shared(void* data, size_t bytes) {
  if (std::find(machine.claimed.begin(), machine.claimed.end(), data) != machine.claimed.end()) return;
  machine.claimed.push_back(data);
  memset(data, kPoison, bytes);
}

void* dynamic_shared() { return machine.shared.get(); }

void run(const char* name, Dim grid, Dim block, size_t shared, const std::function<void()>& kernel) {
  machine.name = name;
  machine.kernel = &kernel;
  ++machine.launches;
  machine.random.seed(static_cast<uint64_t>(machine.schedule));
  if (block.x < 1 || block.x > 1024) fail("has " + std::to_string(block.x) + " threads in a block");
  if (grid.x < 1) fail("has no block");
  if (shared > kMostShared) fail("asks for " + std::to_string(shared) + " bytes of shared memory");
  if (machine.stack_count < block.x) {
    if (machine.stacks != nullptr) munmap(machine.stacks, machine.stack_count * kStack);
    machine.stack_count = block.x;
    void* memory = mmap(nullptr, block.x * kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) fail("finds no memory for its stacks");
    machine.stacks = static_cast<uint8_t*>(memory);
  }
  for (const size_t number : order_of(grid.x)) run_block(grid, block, static_cast<unsigned int>(number), shared);
  check_guards();
}

DeviceGuard::DeviceGuard(int) { machine.guarded.clear(); }

torch::stable::Tensor guarded(const torch::stable::Tensor& like, torch::headeronly::IntHeaderOnlyArrayRef shape,
                              std::optional<torch::headeronly::ScalarType> dtype) {
  int64_t count = 1;
  for (const int64_t side : shape) count *= side;
  const int64_t sizes[] = {count + 2 * kGuard};
  const torch::stable::Tensor whole = torch::stable::new_empty(like, {sizes, 1}, dtype);
  const auto size = static_cast<size_t>(whole.element_size());
  auto* begin = static_cast<uint8_t*>(whole.data_ptr());
  const size_t before = kGuard * size, inside = static_cast<size_t>(count) * size;
  memset(begin, kMark, 2 * before + inside);
  memset(begin + before, whole.scalar_type() == torch::headeronly::ScalarType::Bool ? 1 : kPoison, inside);
  machine.guarded.push_back({whole, begin, before, inside});
  torch::stable::Tensor middle = whole;
  middle = torch::stable::narrow(middle, 0, kGuard, count);
  return torch::stable::view(middle, shape);
}

namespace {

// Which order threads and blocks take; gives how many kernels have been launched so far.
int64_t set_schedule(int64_t schedule) {
  machine.schedule = schedule;
  return machine.launches;
}

}  // namespace
}  // namespace simt

STABLE_TORCH_LIBRARY_FRAGMENT(zoo_simt, m) {
  m.def("set_schedule(int schedule) -> int");
  m.def("faults(Tensor input, str kernel) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(zoo_simt, CompositeExplicitAutograd, m) { m.impl("set_schedule", TORCH_BOX(&simt::set_schedule)); }
