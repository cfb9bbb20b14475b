// The kernels on AVX2 with FMA (-mavx2 -mfma). Empty on other processors than x86-64.
#if defined(__x86_64__)
#if !defined(__AVX2__)
#error "compile this file with the flags above"
#endif
#include "core/vec/avx2.h"

#define FUSEDSPLIT_UNIT_NAME "avx2"
#define FUSEDSPLIT_UNIT_FN isa_unit_avx2
#include "core/microkernels/unit-inl.h"
#endif
