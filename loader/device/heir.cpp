// SPDX-License-Identifier: MIT
#include "device/heir.h"

#include <cerrno>
#include <utility>

#include "device/clone.h"
#include "server/clone.h"
#include "sys/sizes.h"

namespace ublk {

Result<ublk_bpf_info> attached_program(Control& control, uint32_t dev_id) {
  auto info = control.bpf_info(dev_id);
  if (!info && info.error().code() == EOPNOTSUPP) return ublk_bpf_info{};
  return info;
}

Result<void> check_program(Workplace& place, uint32_t dev_id, bool attached) {
  if ((TRY(attached_program(place.control, dev_id)).prog_id != 0) == attached)
    return {};
  return fail(EAGAIN, "{}: its program has come or gone meanwhile: try again",
              device_name(dev_id));
}

Result<void> connect(Workplace& place, Heir& heir) {
  const uint32_t dev_id = heir.before.dev_id;
  if (!heir.program)
    return connect_clone(place.states, dev_id, heir.target,
                         heir.state.new_top ? Adopt::if_its : Adopt::yes);
  // Its server may have attached it just before it ended.
  TRY(check_program(place, dev_id,
                    heir.program->is_attached() || heir.program->replaces()));
  TRY_IN(device_name(dev_id), heir.program->connect(heir.target, dev_id));
  return place.states.change(dev_id, [&](DeviceState& state) {
    state.clone_maps = heir.program->maps();
  });
}

namespace {

Result<void> check_quiet(const Heir& heir) {
  if (heir.state.new_top)
    return std::unexpected(
        Error::plain(EBUSY, "its last snapshot or reset was interrupted")
            .hint(
                fmt("ublk-bpf recover -n {} finishes it", heir.before.dev_id)));
  if (heir.state.flatten)
    return std::unexpected(
        Error::plain(EBUSY, "is being flattened")
            .hint(fmt("wait for ublk-bpf flatten -n {}, or end it with --stop",
                      heir.before.dev_id)));
  if (heir.program && heir.program->shares_maps())
    TRY(heir.program->check_can_freeze());
  return {};
}

// Its program cannot serve with the map that it has.
Result<void> prepare_next_program(Workplace& place, Heir& heir,
                                  const Target& target) {
  if (!heir.program) return {};
  const uint32_t dev_id = heir.before.dev_id;
  auto program = CloneProgram::load_for_new_top(
      target, dev_id, TRY(attached_program(place.control, dev_id)).prog_id);
  if (!program)
    return std::unexpected(std::move(program).error().in(
        "the program that serves it could not go on"));
  heir.next_program = std::move(*program);
  return {};
}

}  // namespace

Result<void> prepare_new_top(Workplace& place, Heir& heir,
                             const NewTopRequest& request) {
  TRY(check_quiet(heir));
  const auto note = [&](const NewTopState& made) {
    return place.states.change(
        heir.before.dev_id, [&](DeviceState& state) { state.new_top = made; });
  };
  heir.next = TRY(NewTop::make(heir.state.target, request, note));
  return prepare_next_program(place, heir, heir.next->target());
}

Result<void> prepare_new_map(Workplace& place, Heir& heir, uint64_t bytes) {
  TRY(check_quiet(heir));
  auto renewed = TRY(open_target(heir.state.target));
  TRY(prepare_next_program(place, heir, renewed));
  // What may fail does before anything is changed.
  if (heir.next_program)
    TRY(heir.next_program->make_maps_for(heir.target.clone->chain(), bytes));
  heir.renewed = std::move(renewed);
  return {};
}

Result<void> prepare_size(Workplace& place, Heir& heir, uint64_t bytes) {
  const auto& clone = heir.target.clone;
  if (!clone || clone->read_only())
    return fail(EINVAL, "is not a clone that is written");
  if (!(heir.before.flags & UBLK_F_UPDATE_SIZE))
    return fail(EOPNOTSUPP,
                "the driver cannot change its size: it has no "
                "UBLK_F_UPDATE_SIZE");
  const uint64_t has = clone->header().size_bytes;
  const uint64_t block = uint64_t{1}
                         << heir.target.params.basic.logical_bs_shift;
  if (bytes < has)
    return fail(EOPNOTSUPP,
                "its layer has {} bytes, and a layer cannot become smaller",
                has);
  if (bytes % block)
    return fail(EINVAL,
                "a size of {} bytes is not a multiple of its block of {}",
                bytes, block);
  heir.size_bytes = bytes;
  if (bytes == has) return {};
  TRY(clone->check_grow(bytes));
  if (heir.program)
    if (auto fits = CloneProgram::check(clone->chain(), bytes); !fits)
      return std::unexpected(std::move(fits).error().hint(fmt(
          "ublk-bpf flatten -n {} before makes it independent of the layers "
          "below",
          heir.before.dev_id)));
  return prepare_new_map(place, heir, bytes);
}

namespace {

// Of a device without a server whose clone is connected: it becomes that which
// has the new top. An error before that one is in its place leaves it as it
// was.
Result<void> change_top(Workplace& place, Heir& heir) {
  const uint32_t dev_id = heir.before.dev_id;
  NewTop& next = *heir.next;
  const auto old = heir.target.clone;
  if (heir.program && heir.program->shares_maps())
    TRY(heir.program->freeze(place.control, dev_id));
  if (next.keeps_old()) TRY(old->save());
  const auto note = [&](DeviceState& state) { state.new_top = next.state(); };
  TRY(place.states.change(dev_id, note));
  TRY(next.put_in_place());
  note(heir.state);
  move_to_new_top(heir.state);
  TRY(place.states.change(dev_id, [](DeviceState& state) {
    if (state.new_top) move_to_new_top(state);
  }));
  if (next.keeps_old()) {
    TRY(old->seal());
    TRY(next.target().clone->take_base());
  }
  heir.target = std::move(next.target());
  heir.program = std::move(heir.next_program);
  return connect(place, heir);
}

// Of such a device: the clone becomes another one on the same layers, with
// another map, and its top larger. An error while `renewed` is there leaves it
// as it was.
Result<void> change_map(Workplace& place, Heir& heir) {
  const uint32_t dev_id = heir.before.dev_id;
  auto old = heir.target.clone;
  if (heir.program && heir.program->shares_maps())
    TRY(heir.program->freeze(place.control, dev_id));
  TRY(old->save());
  // Whoever comes next has all of the old map on the disk.
  heir.state.new_top = NewTopState{.identities = heir.target.spec.identities,
                                   .layers = heir.target.spec.layers,
                                   .in_place = true};
  TRY(place.states.change(dev_id, [&](DeviceState& state) {
    state.new_top = heir.state.new_top;
    state.clone_maps = {};
    state.target.size_bytes = 0;  // as of a clone that was added with one
  }));
  if (heir.size_bytes && *heir.size_bytes > old->header().size_bytes)
    TRY(old->grow(*heir.size_bytes));
  // Without a program it is a file, which is of no use to the next one.
  auto removed = place.states.remove_file(map_file_name(dev_id));
  // Closes the old one, and gives up its lock.
  old.reset();
  heir.target = std::move(*heir.renewed);
  heir.renewed.reset();
  heir.program = std::move(heir.next_program);
  TRY(std::move(removed));
  return connect(place, heir);
}

// Of a clone that goes on with the top, and the map, that it has.
Result<void> keep_top(Workplace& place, Heir& heir) {
  const uint32_t dev_id = heir.before.dev_id;
  heir.next.reset();
  heir.renewed.reset();
  heir.state.new_top.reset();
  // First: what the program sets from then on is in the map that the state has.
  TRY(place.states.change(dev_id, [&](DeviceState& state) {
    state.new_top.reset();
    if (heir.program) state.clone_maps = heir.program->maps();
  }));
  if (heir.program && heir.program->shares_maps()) TRY(heir.program->thaw());
  return {};
}

}  // namespace

Result<std::optional<Error>> change_clone(Workplace& place, Heir& heir) {
  if (heir.next)
    if (auto changed = change_top(place, heir); !changed) {
      if (heir.next->is_in_place()) return std::unexpected(changed.error());
      TRY(keep_top(place, heir));
      return std::move(changed).error();
    }
  if (heir.renewed)
    if (auto changed = change_map(place, heir); !changed) {
      if (!heir.renewed) return std::unexpected(changed.error());
      TRY(keep_top(place, heir));
      return std::move(changed).error();
    }
  return std::nullopt;
}

}  // namespace ublk
