--[[
emit: running -> running

Append pieces of the answer to the job's stream. Repeating a call whose reply was lost appends
nothing twice: `first` is the number of earlier pieces of this attempt.

KEYS
  job     hash    this job's record
  out     stream  this job's output
  leases  zset    job id -> lease end, ms since the epoch
ARGV
  now_ms, id, nonce, lease_ms, max_entries, first, then the pieces
RETURNS
  "held" | "cancel" | "lost"
]]
local job, out, leases = unpack(KEYS, 1, 3)
local now_ms, id, nonce, lease_ms, max_entries, first = unpack(ARGV, 1, 6)
local now = tonumber(now_ms)
if not now then
  local time = redis.call("TIME")
  now = time[1] * 1000 + time[2] / 1000
end

local record = redis.pcall("HMGET", job, "state", "nonce", "cancel", "runs", "emitted")
if record[1] ~= "running" or record[2] ~= nonce then
  return "lost"
end
-- A worker ahead of the record wrote to a server that is gone. The pieces in between are lost, so the
-- claim is lost, and the job is answered again when its lease runs out.
-- So is one whose record is damaged.
local attempt, emitted = string.match(record[4] or "", "^%d+"), tonumber(record[5] or "0")
if not (attempt and emitted) or tonumber(first) > emitted then
  return "lost"
end
local kind_of = redis.call("TYPE", out).ok
if kind_of ~= "stream" and kind_of ~= "none" then -- of another program; see `append` in end_job.lua
  redis.call("DEL", out)
end
for i = 7 + math.max(0, emitted - tonumber(first)), #ARGV do
  local kind = emitted == 0 and "first" or "chunk" -- of its claim; see OutputEntry.starts
  redis.call("XADD", out, "MAXLEN", "~", max_entries, "*", "k", kind, "a", attempt, "d", ARGV[i])
  emitted = emitted + 1
end
redis.call("HSET", job, "emitted", emitted)
redis.call("HSETNX", job, "first_output_ms", string.format("%.3f", now))
redis.call("ZADD", leases, "XX", now + tonumber(lease_ms), id)
return record[3] and "cancel" or "held"
