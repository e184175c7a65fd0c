--[[
Remove a queue, one part at a time: close it, cancel its unfinished jobs, and delete its keys. A job
that is cancelled here can be read for keep_ms more, so that a client that waits for it is told.

KEYS  the queue's (include/queue.lua), then
  lengths      list    the last answers
  workers      zset    worker id -> last heartbeat, ms since the epoch
  worker_info  hash    worker id -> JSON
  record       stream  the training log
  guard        string  the last tick
  control      pub/sub channel of hints to the workers
ARGV  the queue's, then
  force ("1"; "": only a queue without jobs, dead letters and workers), limit (jobs of one call),
  silent_ms (a worker without a heartbeat for so long is dead), keep_ms
RETURNS
  {"busy", waiting, scheduled, running, dead, workers}   nothing was changed
  {"more"}                                               call it again
  {"removed"}
]]
--@include queue
--@include record
--@include tenant_queue
--@include end_job
local lengths, workers, worker_info, record, guard, control = unpack(KEYS, 12, 17)
local force, limit, silent_ms, keep_ms = unpack(ARGV, 5, 8)
limit = tonumber(limit)

if force ~= "1" and redis.call("HGET", queue.meta, "removing") ~= "1" then
  local dead, cursor = 0, "0"
  repeat
    local page = redis.call("HSCAN", queue.vt, cursor, "COUNT", 1000)
    cursor = page[1]
    for i = 1, #page[2], 2 do
      dead = dead + redis.call("ZCARD", queue.prefix .. "dead:" .. page[2][i])
    end
  until cursor == "0" or dead > 0
  local counts = {redis.call("ZCARD", queue.accepted), redis.call("ZCARD", queue.delayed),
    redis.call("ZCARD", queue.leases), dead,
    redis.call("ZCOUNT", workers, "(" .. ms(now - silent_ms), "+inf")}
  for _, count in ipairs(counts) do
    if count > 0 then
      return {"busy", unpack(counts)}
    end
  end
end
-- From here on nothing enters it, whatever another replica of the queue service remembers.
redis.call("HSET", queue.meta, "mode", "draining", "removing", "1")
redis.call("ZREM", queue.wake, "work")

local looked = 0

-- Cancel the jobs of one of the sets that unfinished jobs are in.
local function cancel_all(set)
  for _, id in ipairs(redis.call("ZRANGE", set, 0, limit - looked - 1)) do
    looked = looked + 1
    local job, out = queue.prefix .. "job:" .. id, queue.prefix .. "out:" .. id
    local known = redis.pcall("HMGET", job, "state", "runs")
    local attempt = read_runs(not known.err and known[2])
    if not known.err and known[1] == "running" then
      redis.call("PUBLISH", control, id)
    end
    if redis.call("TYPE", job).ok ~= "hash" then
      redis.call("DEL", job)
    end
    if redis.call("TYPE", out).ok ~= "stream" then
      redis.call("DEL", out)
    end
    end_job(queue, id, "cancelled", now,
      '{"code":"queue_removed","message":"The queue of this model was removed."}', "", attempt,
      attempt ~= 0)
    redis.call("HDEL", job, "nonce") -- a late `finish` of its worker returns "lost"
    redis.call("PEXPIRE", job, keep_ms)
    redis.call("PEXPIRE", out, keep_ms)
    for _, other in ipairs({queue.leases, queue.accepted, queue.delayed, queue.deadlines}) do
      redis.call("ZREM", other, id)
    end
  end
end

-- Delete the jobs of a tenant that ended before; returns whether none is left.
local function delete_ended(list)
  if looked >= limit then
    return false
  end
  local ids = redis.call("ZRANGE", list, 0, limit - looked - 1)
  for _, id in ipairs(ids) do
    looked = looked + 1
    redis.call("UNLINK", queue.prefix .. "job:" .. id, queue.prefix .. "in:" .. id,
      queue.prefix .. "out:" .. id)
  end
  on_many("ZREM", list, ids)
  return redis.call("EXISTS", list) == 0
end

local function delete_tenant(tenant)
  if delete_ended(queue.prefix .. "finished:" .. tenant)
    and delete_ended(queue.prefix .. "dead:" .. tenant) then
    redis.call("UNLINK", queue.prefix .. "ready:" .. tenant, queue.prefix .. "rate:" .. tenant)
    redis.call("HDEL", queue.vt, tenant)
    redis.call("ZREM", queue.tenants, tenant)
  end
end

for _, set in ipairs({queue.leases, queue.accepted, queue.delayed, queue.deadlines}) do
  if looked < limit then
    cancel_all(set)
  end
end
queue.ended.lists, queue.ended.tenants = {}, {} -- they are listed nowhere any more
write_ends(queue)
for _, tenant in ipairs(redis.call("ZRANGE", queue.tenants, 0, limit)) do
  redis.call("HSETNX", queue.vt, tenant, 0)
end
local page = redis.call("HSCAN", queue.vt, "0", "COUNT", 100)[2]
for i = 1, #page, 2 do
  looked = looked + 1
  if looked >= limit then
    break
  end
  delete_tenant(page[i])
end
if looked >= limit or redis.call("EXISTS", queue.leases, queue.accepted, queue.delayed,
  queue.deadlines, queue.vt, queue.tenants) > 0 then
  return {"more"}
end

redis.call("UNLINK", queue.wake, queue.fcfs, queue.scheduled, lengths, workers, worker_info, record,
  guard, queue.views, queue.prefix .. "evidence", queue.prefix .. "learned", queue.prefix .. "learner",
  queue.meta)
-- For as long as a replica may believe that the queue exists, it accepts nothing.
redis.call("HSET", queue.meta, "mode", "draining", "removed", "1")
redis.call("PEXPIRE", queue.meta, keep_ms)
redis.call("PEXPIRE", queue.ends, keep_ms)
return {"removed"}
