// Instruction sets: which are compiled in, which one runs, and how a kernel is reached.
//
// Each kernel source is compiled once per instruction set with DPSLICE_ISA set to its name, and
// puts its code into namespace dpslice::DPSLICE_ISA. DPSLICE_DECLARE_KERNEL declares all those
// twins and one function of the same name in namespace dpslice that calls the twin for the
// instruction set in use. It is asked for where there is but one, too: a DPSLICE_ISA that is none
// is an error everywhere.
//
// Files compiled per instruction set must not instantiate templates or inline functions of the
// standard library that are emitted out of line (containers, algorithms, strings): the linker keeps
// one copy of such a function for the whole module, perhaps the one with instructions that this
// machine lacks. tests/test_isa.py looks at the objects' symbols.
#pragma once

#include <string>
#include <vector>

namespace dpslice {

#if defined(__x86_64__)
enum class Isa { baseline, avx2, avx512 };
#elif defined(__aarch64__)
#define DPSLICE_ONLY_ISA neon
enum class Isa { DPSLICE_ONLY_ISA };
#else
#define DPSLICE_ONLY_ISA baseline
enum class Isa { DPSLICE_ONLY_ISA };
#endif

// Defined in isa.cpp, which is compiled for the baseline only.
Isa active_isa();
void set_active_isa(const std::string& name);
const char* isa_name(Isa isa);
std::vector<std::string> available_isas();  // what this build and this processor both have

}  // namespace dpslice

#define DPSLICE_DECLARE_TWIN(isa, name, Args) \
  namespace isa {                             \
  template <class T>                          \
  void name(const Args<T>& args);             \
  }

#if defined(__x86_64__)
#define DPSLICE_DECLARE_KERNEL(name, Args)             \
  DPSLICE_DECLARE_TWIN(baseline, name, Args)           \
  DPSLICE_DECLARE_TWIN(avx2, name, Args)               \
  DPSLICE_DECLARE_TWIN(avx512, name, Args)             \
  template <class T>                                   \
  inline void name(const Args<T>& args) {              \
    switch (active_isa()) {                            \
      case Isa::avx512: return avx512::name(args);     \
      case Isa::avx2: return avx2::name(args);         \
      case Isa::baseline: return baseline::name(args); \
    }                                                  \
  }
#else
#define DPSLICE_DECLARE_KERNEL(name, Args)                             \
  DPSLICE_DECLARE_TWIN(DPSLICE_ONLY_ISA, name, Args)                   \
  template <class T>                                                   \
  inline void name(const Args<T>& args) {                              \
    switch (active_isa()) {                                            \
      case Isa::DPSLICE_ONLY_ISA: return DPSLICE_ONLY_ISA::name(args); \
    }                                                                  \
  }
#endif

// At the end of a kernel source: the two dtypes that every kernel has.
#define DPSLICE_INSTANTIATE(name, Args)          \
  template void name<float>(const Args<float>&); \
  template void name<double>(const Args<double>&);
