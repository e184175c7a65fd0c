-- The first keys and arguments of every script about a queue; `QueueKeys.script_keys` lists them.
--   KEYS 1-11
--     tenants    zset    tenant with waiting jobs -> its virtual time
--     vt         hash    every known tenant -> its virtual time when it last rested
--     accepted   zset    id of a queued job -> start of its wait, ms since the epoch
--     delayed    zset    job id -> not before, ms since the epoch
--     deadlines  zset    job id -> deadline, ms since the epoch
--     leases     zset    job id -> lease end, ms since the epoch
--     wake       zset    one marker while jobs wait and the queue is not paused
--     meta       hash    counters, mode, policy
--     fcfs       list    "mark since id" of the jobs that first come first served has not started yet
--     scheduled  hash    tenant -> its jobs in `delayed`
--     ends       stream  ids of jobs that ended without output, for the readers that wait for one
--   ARGV 1-4
--     prefix, now_ms ("": the server's clock), retention_ms, dead_retention_ms
local tenants, vt, accepted, delayed, deadlines, leases, wake, meta, fcfs, scheduled, ends =
  unpack(KEYS, 1, 11) -- not all of them: Lua unpacks some 8,000 values at most
local prefix, now_ms, retention_ms, dead_retention_ms = unpack(ARGV, 1, 4)
-- `views`, hash: id of a job that has not ended -> what is learned from it. Like a job's own keys it
-- is made from the prefix: a further declared key would cost every call.
local queue = {tenants = tenants, vt = vt, accepted = accepted, delayed = delayed,
  deadlines = deadlines, leases = leases, wake = wake, meta = meta, fcfs = fcfs,
  scheduled = scheduled, ends = ends, prefix = prefix, views = prefix .. "views", retention_ms = retention_ms,
  dead_retention_ms = dead_retention_ms,
  ended = {ids = {}, silent = {}, bodies = {}, lists = {}, tenants = {}, count = {}}}
local now = tonumber(now_ms)
if not now then
  local time = redis.call("TIME")
  now = time[1] * 1000 + time[2] / 1000
end
