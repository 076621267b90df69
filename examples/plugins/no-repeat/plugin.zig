//! Never writes the same run of tokens twice: forbids each token that would complete a run that the text has already. Over the SDK for
//! C, whose headers are the module `sdk`.

const std = @import("std");
const c = @import("sdk");

var size: usize = 0;
var last: u32 = 0;
var chooses: bool = true;

export fn sampler_configure(parameters: *c.object_t) ?[*:0]const u8 {
    size = @intCast(c.object_integer(parameters, "size", 3, 2, 16));
    last = @intCast(c.object_integer(parameters, "last", 1024, 1, 65536));
    chooses = c.object_flag(parameters, "choose", true);
    return null;
}

/// Puts the tokens that would complete a run first, each once and in their order; gives them.
fn completing(tokens: []u32) []u32 {
    if (tokens.len < size) return tokens[0..0];
    var begun: [16]u32 = undefined;
    const length = size - 1;
    @memcpy(begun[0..length], tokens[tokens.len - length ..]);
    var found: usize = 0;
    for (0..tokens.len - length) |start| {
        if (std.mem.eql(u32, tokens[start..][0..length], begun[0..length])) {
            // What is overwritten lies before the run.
            tokens[found] = tokens[start + length];
            found += 1;
        }
    }
    std.mem.sort(u32, tokens[0..found], {}, std.sort.asc(u32));
    var kept: usize = 0;
    for (tokens[0..found]) |token| {
        if (kept == 0 or token != tokens[kept - 1]) {
            tokens[kept] = token;
            kept += 1;
        }
    }
    return tokens[0..kept];
}

export fn sampler_sample(choice: *c.choice_t) ?[*:0]const u8 {
    var tail: c.membrane_plugin_history_list_token_t = undefined;
    c.membrane_plugin_history_tail(last, &tail);
    defer c.membrane_plugin_history_list_token_free(&tail);
    const banned = completing(tail.ptr[0..tail.len]);
    var wrong: c.membrane_string_t = undefined;
    // Something has to be left.
    if (banned.len > 0 and banned.len < c.membrane_plugin_logits_count()) {
        var list: c.membrane_plugin_logits_list_token_t = .{ .ptr = banned.ptr, .len = banned.len };
        if (!c.membrane_plugin_logits_mask(c.MEMBRANE_PLUGIN_LOGITS_MASK_KIND_FORBID, &list, &wrong)) return c.failed(&wrong);
    }
    if (chooses) {
        var drawn: c.membrane_plugin_logits_drawn_t = undefined;
        if (!c.membrane_plugin_logits_draw(&drawn, &wrong)) return c.failed(&wrong);
        c.choose(choice, drawn.token);
    }
    return null;
}
