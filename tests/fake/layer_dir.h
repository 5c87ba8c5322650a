// SPDX-License-Identifier: MIT
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <string>

#include "layer/layer_file.h"

namespace ublk {

// 0 if it is none.
template <typename T>
int error_of(const Result<T>& result) {
  return result ? 0 : result.error().code();
}

// A directory for layers, empty before and gone after each test.
class LayerDir : public testing::Test {
 protected:
  static constexpr int64_t kMiB = 1 << 20;
  static constexpr uint64_t kBlock = 4096;

  void SetUp() override {
    std::filesystem::remove_all(dir_);
    std::filesystem::create_directories(dir_);
    dir_ = std::filesystem::canonical(dir_);
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  std::string at(const std::string& name) const { return dir_ + "/" + name; }
  bool exists(const std::string& name) const {
    return std::filesystem::exists(at(name));
  }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(at(name), std::ios::binary) << text;
  }
  std::string read(const std::string& name) const {
    std::ifstream in(at(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  // In place: the file stays the same one.
  void patch(const std::string& name, uint64_t offset,
             const std::string& bytes) const {
    std::fstream file(at(name),
                      std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(static_cast<std::streamoff>(offset));
    file << bytes;
  }

  LayerHeader make(const std::string& name, Layer::CreateOptions options) {
    options.path = at(name);
    const auto made = Layer::create(options);
    EXPECT_TRUE(made) << made.error().line();
    return made.value_or(LayerHeader());
  }
  Layer top(const std::string& name, Layer::OpenOptions options = {}) {
    options.use = Layer::Use::top;
    auto layer = Layer::open(at(name), options);
    EXPECT_TRUE(layer) << layer.error().line();
    return std::move(*layer);
  }
  // As no program of ours does.
  void rebase(const std::string& name, const std::string& base) {
    EXPECT_TRUE(layer_format::seal(UniqueFd::open(at(base), O_RDWR)->get()));
    LayerHeader header = *Layer::read_header(at(name));
    header.base = {.kind = LayerBase::Kind::layer,
                   .uuid = Layer::read_header(at(base))->uuid};
    put_header(name, header, base);
  }
  void put_header(const std::string& name, const LayerHeader& header,
                  const std::string& path) {
    using namespace layer_format;
    const HeaderSector sector =
        encode_header(header, {.offset = kPathOffset,
                               .bytes = static_cast<uint32_t>(path.size()),
                               .checksum = path_checksum(header.uuid, path)});
    patch(name, 0, text_of(sector));
    patch(name, kPathOffset, path);
  }
  template <typename Sector>
  static std::string text_of(const Sector& sector) {
    return {reinterpret_cast<const char*>(&sector), sizeof(sector)};
  }
  void write_sectors(const Layer& layer, const Layer::Save& save) {
    for (const auto& sector : save.sectors)
      EXPECT_EQ(
          ::pwrite(layer.metadata_fd(), sector.bytes.data(),
                   sector.bytes.size(), static_cast<off_t>(sector.offset)),
          512);
  }

  std::string dir_ =
      testing::TempDir() + "layer-" +
      testing::UnitTest::GetInstance()->current_test_info()->name();
};

}  // namespace ublk
