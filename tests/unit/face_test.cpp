// SPDX-License-Identifier: MIT
//
// On types that are made up: what another tree's driver has must not be taken
// for ours.

#include "prog/face.h"

#include <bpf/btf.h>
#include <gtest/gtest.h>
#include <ublk_bpf.h>

#include <memory>

namespace ublk {
namespace {

using BtfPtr = std::unique_ptr<btf, decltype(&btf__free)>;

struct Types {
  bool kfunc = false;
  std::vector<const char*> params = {"ctx", "sqe", "sqe__sz", "target"};
  const char* ops = nullptr;  // the struct_ops' name
  uint32_t ctx_bytes = 0;     // 0: no context
  uint32_t prog_type = 0;
};

// A module's are on top of the kernel's.
BtfPtr made_of(const Types& types, btf* base = nullptr) {
  BtfPtr made(base ? btf__new_empty_split(base) : btf__new_empty(), &btf__free);
  btf* b = made.get();
  const int number = btf__add_int(b, "int", 4, BTF_INT_SIGNED);
  if (types.prog_type) {
    btf__add_enum(b, "bpf_prog_type", 4);
    btf__add_enum_value(b, "BPF_PROG_TYPE_UBLK", types.prog_type);
  }
  if (types.ctx_bytes) btf__add_struct(b, "ublk_bpf_ctx", types.ctx_bytes);
  if (types.ops) btf__add_struct(b, types.ops, 8);
  if (types.kfunc) {
    const int proto = btf__add_func_proto(b, number);
    for (const char* name : types.params) btf__add_func_param(b, name, number);
    btf__add_func(b, "bpf_ublk_queue_sqe", BTF_FUNC_GLOBAL, proto);
  }
  return made;
}

FaceInfo face(const Types& vmlinux, const Types& driver) {
  const BtfPtr kernel = made_of(vmlinux);
  return face_of(kernel.get(), made_of(driver, kernel.get()).get());
}

constexpr const char* kOurs = "ublk_bpf_sqe_ops";
constexpr const char* kEarlier = "ublk_bpf_ops";

TEST(Face, OfTheProgramTypeNeedsTheKfunc) {
  const FaceInfo found =
      face({.kfunc = true, .ctx_bytes = 48, .prog_type = 33}, {});
  EXPECT_EQ(found.face, Face::program_type);
  EXPECT_EQ(found.prog_type, 33U);
  EXPECT_EQ(found.version, 2U);
  // A driver that is not loaded, or another tree's type.
  EXPECT_EQ(face({.prog_type = 33}, {}).face, Face::none);
  // Of a driver that is a module.
  EXPECT_EQ(face({.prog_type = 33}, {.kfunc = true, .ctx_bytes = 48}).face,
            Face::program_type);
}

TEST(Face, OfTheProgramTypeTellsItsVersion) {
  EXPECT_EQ(face({.kfunc = true, .ctx_bytes = 32, .prog_type = 33}, {}).version,
            1U);
}

TEST(Face, OfStructOpsIsNeverKnownByItsNameAlone) {
  const Types ours = {.kfunc = true, .ops = kOurs, .ctx_bytes = 48};
  EXPECT_EQ(face({}, ours).face, Face::struct_ops);
  EXPECT_EQ(face({}, ours).version, 2U);
  EXPECT_EQ(face({}, {.ops = kOurs}).face, Face::none);
  EXPECT_EQ(face({}, {.ops = kEarlier}).face, Face::none);
  EXPECT_EQ(face({}, {.ops = kEarlier}).has_kfunc, false);
}

TEST(Face, OfAnEarlierVersionsStructIsNoneButKnown) {
  const FaceInfo found =
      face({}, {.kfunc = true, .ops = kEarlier, .ctx_bytes = 32});
  EXPECT_EQ(found.face, Face::none);
  EXPECT_TRUE(found.has_kfunc);
  EXPECT_EQ(found.version, 1U);
}

TEST(Face, NeedsTheKfuncsOwnArguments) {
  Types other = {.kfunc = true, .ops = kOurs, .ctx_bytes = 48};
  for (const auto& params : std::vector<std::vector<const char*>>{
           {},
           {"ctx", "sqe", "sqe__sz"},
           {"ctx", "sqe", "len", "target"},
           {"ctx", "sqe", "sqe__sz", "target", "more"}}) {
    other.params = params;
    EXPECT_EQ(face({}, other).face, Face::none) << params.size();
  }
}

TEST(Face, WithoutTypesIsNone) {
  const FaceInfo found = face_of(nullptr, nullptr);
  EXPECT_EQ(found.face, Face::none);
  EXPECT_FALSE(found.has_btf);
}

}  // namespace
}  // namespace ublk
