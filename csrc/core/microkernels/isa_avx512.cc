// The kernels on AVX-512 (-mavx512f -mavx512dq -mavx512bw -mavx512vl). Empty on other processors than
// x86-64.
#if defined(__x86_64__)
#if !defined(__AVX512F__)
#error "compile this file with the flags above"
#endif
#include "core/vec/avx512.h"

#define FUSEDSPLIT_UNIT_NAME "avx512"
#define FUSEDSPLIT_UNIT_FN isa_unit_avx512
#include "core/microkernels/unit-inl.h"
#endif
