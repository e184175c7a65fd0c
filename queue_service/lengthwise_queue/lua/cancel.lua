--[[
cancel: scheduled -> cancelled
cancel: queued -> cancelled
cancel: running -> running

Withdraw a job. One that runs is flagged, and its worker hears of it at its next beat or emit, or
at once by the hint on the channel; it ends as cancelled, whatever its worker says then.

KEYS
  job        hash  this job's record
  ready      zset  job id -> due time, ms since the epoch
  accepted   zset  id of a queued job -> when it was accepted, ms since the epoch
  delayed    zset  job id -> not before, ms since the epoch
  deadlines  zset  job id -> deadline, ms since the epoch
  finished   zset  job id -> when it ended
  dead       zset  id of a failed job -> when it ended
  meta       hash  counters
  control    pub/sub channel of hints to the workers
ARGV
  prefix, now_ms, id, retention_ms, dead_retention_ms
RETURNS
  the state that the job is in now, or "unknown"
]]
--@include end_job
local job, ready, accepted, delayed, deadlines, finished, dead, meta, control = unpack(KEYS)
local prefix, now_ms, id, retention_ms, dead_retention_ms = unpack(ARGV)
local now = tonumber(now_ms)
if not now then
  local time = redis.call("TIME")
  now = time[1] * 1000 + time[2] / 1000
end
local line = {prefix = prefix, deadlines = deadlines, finished = finished, dead = dead, meta = meta,
  retention_ms = retention_ms, dead_retention_ms = dead_retention_ms}

local record = redis.call("HMGET", job, "state", "cost")
local state = record[1]
if state == "running" then
  redis.call("HSETNX", job, "cancel", "cancelled")
  redis.call("PUBLISH", control, id)
elseif state == "queued" or state == "scheduled" then
  if redis.call("ZREM", ready, id) == 1 then
    redis.call("HINCRBY", meta, "backlog_tokens", 0 - record[2])
  end
  redis.call("ZREM", accepted, id)
  redis.call("ZREM", delayed, id)
  end_job(line, id, "cancelled", now, "")
  state = "cancelled"
end
return state or "unknown"
