--[[
Write the results of lines, each line's once: the result of an open line closes it. With cursors, the
lines were never opened, and count only if the input was read to the old cursor.

KEYS
  record  hash  the batch's record
  open    hash  line -> its place in the input, of lines without a result
  out     hash  the blocks of the output file
  err     hash  the blocks of the error file
ARGV
  nonce, ttl_ms, old cursor, new cursor ("" and "": open lines),
  then for each: line, "out" or "err", text, input tokens, output tokens
RETURNS
  {"ok", bytes of the output file, bytes of the error file}
  {"lost"}            another runner works on it now
]]
local record, open = KEYS[1], KEYS[2]
local files = {out = KEYS[3], err = KEYS[4]}
local nonce, ttl_ms, old, new = unpack(ARGV, 1, 4)
local known = redis.call("HMGET", record, "owner", "cursor")
if known[1] ~= nonce then
  return {"lost"}
end
local texts, counts, tokens = {out = {}, err = {}}, {out = 0, err = 0}, {0, 0}
for at = 5, #ARGV, 5 do
  local line, file, text, input, output = unpack(ARGV, at, at + 4)
  local fresh
  if new == "" then
    fresh = redis.call("HDEL", open, line) == 1
  else
    fresh = known[2] == old
  end
  if fresh then
    table.insert(texts[file], text)
    counts[file] = counts[file] + 1
    tokens = {tokens[1] + input, tokens[2] + output}
  end
end
if new ~= "" and known[2] == old then
  redis.call("HSET", record, "cursor", new)
end
for file, key in pairs(files) do
  if counts[file] > 0 then
    local block = table.concat(texts[file])
    local number = redis.call("HINCRBY", record, file .. "_blocks", 1) - 1
    redis.call("HSET", key, number, block)
    redis.call("PEXPIRE", key, ttl_ms)
    redis.call("HINCRBY", record, file .. "_bytes", #block)
  end
end
redis.call("HINCRBY", record, "completed", counts.out)
redis.call("HINCRBY", record, "failed", counts.err)
redis.call("HINCRBY", record, "input_tokens", tokens[1])
redis.call("HINCRBY", record, "output_tokens", tokens[2])
local sizes = redis.call("HMGET", record, "out_bytes", "err_bytes")
return {"ok", sizes[1], sizes[2]}
