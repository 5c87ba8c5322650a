// SPDX-License-Identifier: MIT
//
// On objects that the tree's own compiler rules have made.

#include "prog/object.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <fstream>

namespace ublk {
namespace {

std::string ours(const std::string& name) {
  return std::string(UBLK_BPF_OBJECTS) + "/bpf/" + name + ".bpf.o";
}
std::string of_tests(const std::string& name) {
  return std::string(UBLK_BPF_OBJECTS) + "/tests/programs/" + name + ".bpf.o";
}

ProgramObject opened(const std::string& path) {
  auto object = ProgramObject::open(path, FaceInfo{});
  if (!object) throw std::runtime_error(object.error().line());
  return std::move(*object);
}

std::string file_with(const std::string& name, const std::string& bytes) {
  const std::string path = testing::TempDir() + name;
  std::ofstream(path, std::ios::binary) << bytes;
  return path;
}

TEST(Object, HasTheProgramsThatItsAuthorNamed) {
  EXPECT_EQ(opened(ours("loop")).programs(), std::vector<std::string>{"loop"});
  EXPECT_EQ(opened(of_tests("two")).programs().size(), 2U);
}

TEST(Object, HasCompletionHalvesOfProgramsNotProgramsOfTheirOwn) {
  const ProgramObject object = opened(of_tests("completed"));
  EXPECT_EQ(object.programs(), std::vector<std::string>{"completed"});
  EXPECT_TRUE(object.completes("completed"));
  EXPECT_FALSE(opened(of_tests("two")).completes("first"));
  EXPECT_FALSE(opened(ours("loop")).completes("loop"));
}

TEST(Object, WithOneProgramNeedsNoName) {
  EXPECT_EQ(*opened(ours("null")).choose(""), "null");
  EXPECT_EQ(*opened(ours("null")).choose("null"), "null");
}

TEST(Object, WithTwoProgramsListsThem) {
  const auto chosen = opened(of_tests("two")).choose("");
  ASSERT_FALSE(chosen);
  EXPECT_EQ(chosen.error().code(), EINVAL);
  EXPECT_NE(chosen.error().line().find("first, second"), std::string::npos);
  EXPECT_NE(chosen.error().line().find("--prog"), std::string::npos);
}

TEST(Object, WithoutTheNamedProgramListsTheOthers) {
  const auto chosen = opened(of_tests("two")).choose("third");
  EXPECT_EQ(chosen.error().code(), ENOENT);
  EXPECT_NE(chosen.error().line().find("'third'"), std::string::npos);
  EXPECT_NE(chosen.error().line().find("first, second"), std::string::npos);
}

TEST(Object, WithoutAnyProgramSaysSo) {
  EXPECT_EQ(opened(of_tests("none")).choose("").error().code(), ENOENT);
}

TEST(Object, ThatIsNoneIsRefused) {
  std::ifstream self("/proc/self/exe", std::ios::binary);
  const std::string host((std::istreambuf_iterator<char>(self)), {});
  std::ifstream in(ours("loop"), std::ios::binary);
  const std::string loop((std::istreambuf_iterator<char>(in)), {});
  const std::pair<const char*, std::string> cases[] = {
      {"text.o", "this is no ELF"},
      {"empty.o", ""},
      {"cut.o",
       "\x7f"
       "ELF"},
      {"host.o", host.substr(0, 4096)},
      {"half.o", loop.substr(0, loop.size() / 2)},
  };
  for (const auto& [name, bytes] : cases) {
    const auto object = ProgramObject::open(file_with(name, bytes), FaceInfo{});
    ASSERT_FALSE(object) << name;
    EXPECT_EQ(object.error().code(), ENOEXEC) << name;
    EXPECT_NE(object.error().line().find(name), std::string::npos);
    EXPECT_EQ(object.error().line().find('\n'), std::string::npos) << name;
  }
  EXPECT_EQ(ProgramObject::open("/nonexistent.o", FaceInfo{}).error().code(),
            ENOENT);
  EXPECT_EQ(ProgramObject::open("/", FaceInfo{}).error().code(), EISDIR);
}

TEST(Knobs, AreTheConstVolatileScalars) {
  ProgramObject object = opened(of_tests("badsqe"));
  const Knobs& knobs = object.knobs();
  ASSERT_TRUE(knobs.get("field"));
  EXPECT_EQ(knob_type(*knobs.get("field")), "u8");
  EXPECT_EQ(knob_type(*knobs.get("value")), "u64");
  EXPECT_EQ(knob_type(*knobs.get("verdict")), "s32");
  EXPECT_EQ(knob_type(*opened(of_tests("half")).knobs().get("hole")), "bool");
  EXPECT_FALSE(knobs.get("_license"));
}

TEST(Knobs, HaveTheValuesThatTheProgramGivesThem) {
  const auto values = opened(of_tests("badsqe")).knobs().values();
  EXPECT_EQ(values.at("times"), "1");
  EXPECT_EQ(values.at("verdict"), "3");
  EXPECT_EQ(opened(of_tests("linked")).knobs().values().at("link"), "true");
}

struct KnobCase {
  const char* knob;
  const char* text;
  const char* value;  // nullptr: refused with `code`
  int code;
};

TEST(Knobs, TakeWhatFitsTheirType) {
  constexpr KnobCase cases[] = {
      {"field", "255", "255", 0},
      {"field", "0xff", "255", 0},
      {"field", "256", nullptr, ERANGE},
      {"field", "-1", nullptr, ERANGE},
      {"field", "", nullptr, EINVAL},
      {"value", "18446744073709551615", "18446744073709551615", 0},
      {"value", "18446744073709551616", nullptr, ERANGE},
      {"value", "0x1ffffffffffffffff", nullptr, ERANGE},
      {"value", "1M", "1048576", 0},
      {"value", "ten", nullptr, EINVAL},
      {"value", "0x", nullptr, EINVAL},
      {"value", "0x1g", nullptr, EINVAL},
      {"verdict", "-2147483648", "-2147483648", 0},
      {"verdict", "2147483647", "2147483647", 0},
      {"verdict", "-2147483649", nullptr, ERANGE},
      {"verdict", "2147483648", nullptr, ERANGE},
      {"verdict", "--1", nullptr, EINVAL},
      {"no_such", "1", nullptr, ENOENT},
  };
  ProgramObject object = opened(of_tests("badsqe"));
  for (const auto& c : cases) {
    const auto before = object.knobs().values();
    const auto set = object.knobs().set(c.knob, c.text);
    if (c.value) {
      ASSERT_TRUE(set) << c.knob << "=" << c.text << ": " << set.error().line();
      EXPECT_EQ(object.knobs().values().at(c.knob), c.value);
    } else {
      ASSERT_FALSE(set) << c.knob << "=" << c.text;
      EXPECT_EQ(set.error().code(), c.code) << set.error().line();
      EXPECT_NE(set.error().line().find(c.knob), std::string::npos);
      EXPECT_EQ(object.knobs().values(), before) << "something was changed";
    }
  }
}

TEST(Knobs, OfBoolTakeWords) {
  ProgramObject object = opened(of_tests("linked"));
  EXPECT_TRUE(object.knobs().set("link", "off"));
  EXPECT_EQ(object.knobs().values().at("link"), "false");
  EXPECT_TRUE(object.knobs().set("link", "1"));
  EXPECT_EQ(object.knobs().values().at("link"), "true");
  EXPECT_EQ(object.knobs().set("link", "2").error().code(), EINVAL);
}

TEST(Knobs, ThatDoNotExistAreAnsweredWithThoseThatDo) {
  ProgramObject loop = opened(ours("loop"));
  EXPECT_NE(loop.knobs().set("x", "1").error().line().find("offset (u64)"),
            std::string::npos);
  ProgramObject null = opened(ours("null"));
  EXPECT_NE(null.knobs().set("x", "1").error().line().find("has none"),
            std::string::npos);
}

TEST(VerifierCause, IsTheLastLineBeforeTheStatistics) {
  EXPECT_EQ(verifier_cause("0: R1=ctx()\n0: (b7) r0 = 0\nR2 !read_ok\n"
                           "processed 2 insns (limit 1000000)\n"),
            "R2 !read_ok");
  EXPECT_EQ(verifier_cause("only read is supported\nverification time 3 usec\n"
                           "stack depth 0\nprocessed 1 insns\n\n"),
            "only read is supported");
  EXPECT_EQ(verifier_cause(""), "");
}

}  // namespace
}  // namespace ublk
