// A request to bring memory into the cache: the one hint to the processor that drivers give as well.
#pragma once

#if defined(_MSC_VER) && !defined(__clang__)
#define LW_PREFETCH(address)
#else
#define LW_PREFETCH(address) __builtin_prefetch(address)
#endif
