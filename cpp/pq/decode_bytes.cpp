// Codes of eight bits as the coordinates of their words: four of them are an int32 in a table of 256, which is
// gathered.
#include "../isa/isa.h"

namespace lw::LW_ISA {
namespace {

constexpr std::size_t kWords = 256;

}  // namespace

void decode_bytes(const std::uint8_t* codes, std::size_t n_groups, std::size_t n_bytes, const std::int32_t* tables,
                  std::size_t quads, std::size_t n_quads, std::int32_t* out) {
  for (std::size_t g = 0; g < n_groups; ++g) {
    const std::int32_t* table = tables;
    std::int32_t* quad = out + g * n_quads * kLanes;
    for (std::size_t j = 0; j < n_bytes; ++j) {
      for (std::size_t i = 0; i < quads; ++i, table += kWords, quad += kLanes) {
        store(quad, gather(table, codes + (g * n_bytes + j) * kLanes));
      }
    }
  }
}

}  // namespace lw::LW_ISA
