#include "isa.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace dpslice {
namespace {

#if defined(__x86_64__)
constexpr Isa kAll[] = {Isa::baseline, Isa::avx2, Isa::avx512};  // slowest first
bool processor_has(Isa isa) {
  __builtin_cpu_init();
  switch (isa) {
    case Isa::avx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
             __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    case Isa::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
             __builtin_cpu_supports("bmi2");
    case Isa::baseline: return true;
  }
  return false;
}
#elif defined(__aarch64__)
constexpr Isa kAll[] = {Isa::neon};
bool processor_has(Isa) { return true; }
#else
constexpr Isa kAll[] = {Isa::baseline};
bool processor_has(Isa) { return true; }
#endif

Isa named(const std::string& name) {
  std::string known;
  for (Isa isa : kAll) {
    if (name == isa_name(isa)) {
      if (processor_has(isa)) return isa;
      throw std::invalid_argument("isa must be one that this processor has; it lacks " + name);
    }
    known += known.empty() ? isa_name(isa) : std::string(", ") + isa_name(isa);
  }
  throw std::invalid_argument("isa must be one of " + known + "; got '" + name + "'");
}

Isa initial() {
  const char* wanted = std::getenv("DPSLICE_ISA");
  if (wanted != nullptr && *wanted != '\0') {
    try {
      return named(wanted);
    } catch (const std::invalid_argument& error) {
      throw std::invalid_argument(std::string("environment variable DPSLICE_ISA: ") + error.what());
    }
  }
  Isa best = kAll[0];
  for (Isa isa : kAll)
    if (processor_has(isa)) best = isa;
  return best;
}

// At first use, not on import: so it is an error like any other, which the command line can tell.
std::atomic<Isa>& active() {
  static std::atomic<Isa> isa{initial()};
  return isa;
}

}  // namespace

Isa active_isa() { return active().load(std::memory_order_relaxed); }

void set_active_isa(const std::string& name) { active().store(named(name)); }

const char* isa_name(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::baseline: return "baseline";
    case Isa::avx2: return "avx2";
    case Isa::avx512: return "avx512";
#elif defined(__aarch64__)
    case Isa::neon: return "neon";
#else
    case Isa::baseline: return "baseline";
#endif
  }
  return "?";
}

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (Isa isa : kAll)
    if (processor_has(isa)) names.emplace_back(isa_name(isa));
  return names;
}

}  // namespace dpslice
