-- Append an entry to a job's stream. A key of another type is in its place only by another program: it
-- is deleted, because an error here would stop every script that meets this job, for ever.
local function append(out, ...)
  local reply = redis.pcall("XADD", out, "*", ...)
  if type(reply) == "table" and reply.err then
    if redis.call("TYPE", out).ok ~= "stream" then
      redis.call("DEL", out)
    end
    redis.call("XADD", out, "*", ...)
  end
end

-- End a job: write the record and the END of its stream, and delete what is no longer needed.
-- A job without output (not `has_output`) has no stream, and gets none for its END alone: the record
-- has it, and `write_ends` wakes the readers that wait. A stream would cost 4 us and 4 kB.
-- `queue` holds the key names that the caller declared; the job's own keys share their hash tag.
-- `more` are further fields for the record, name and value in turn, and may be nil like the rest;
-- `usage` is "prompt output details", tokens and JSON, each of which may be "".
-- `write_ends` changes the sets that many jobs leave or join: one more command costs the server twice
-- what one more member of a command does (docs/research/experiments.md, "a no-op job, again").
local function end_job(queue, id, state, now, error_json, tenant, attempt, has_output, more, usage)
  local job = queue.prefix .. "job:" .. id
  local keep, fields, ended = queue.retention_ms, more or {}, queue.ended
  local at = #fields
  fields[at + 1], fields[at + 2], fields[at + 3] = "state", state, "finished_ms"
  ended.at = ended.at or string.format("%.3f", now)
  fields[at + 4] = ended.at
  if error_json ~= "" then
    fields[at + 5], fields[at + 6] = "error", error_json
  end
  redis.call("HSET", job, unpack(fields))
  ended.ids[#ended.ids + 1] = id
  ended.count[state] = (ended.count[state] or 0) + 1
  local list = queue.prefix .. "finished:" .. tenant
  if state == "failed" then
    keep, list = queue.dead_retention_ms, queue.prefix .. "dead:" .. tenant
    redis.call("PEXPIRE", queue.prefix .. "in:" .. id, keep)
  else
    ended.bodies[#ended.bodies + 1] = queue.prefix .. "in:" .. id
  end
  ended.tenants[tenant] = true
  local members = ended.lists[list] or {}
  ended.lists[list] = members
  members[#members + 1] = ended.at
  members[#members + 1] = id
  redis.call("PEXPIRE", job, keep)
  if has_output then
    local out = queue.prefix .. "out:" .. id
    local prompt, output, details = string.match(usage or "", "^(%d*) (%d*) ?(.*)$")
    append(out, "k", "end", "a", attempt or "0", "d", '{"state":"' .. state
      .. '","error":' .. (error_json ~= "" and error_json or "null")
      .. ',"prompt_tokens":' .. (prompt and prompt ~= "" and prompt or "null")
      .. ',"output_tokens":' .. (output and output ~= "" and output or "null")
      .. (details and details ~= "" and ',"usage_details":' .. details or "") .. "}")
    redis.call("PEXPIRE", out, keep)
  else
    ended.silent[#ended.silent + 1] = id
  end
end

-- Run a command on many members, 500 at a time, because `unpack` is bounded. Returns the last reply.
local function on_many(command, key, members)
  local reply
  for first = 1, #members, 500 do
    reply = redis.call(command, key, unpack(members, first, math.min(first + 499, #members)))
  end
  return reply
end

-- Write the rest of all ends of this call. A script that ends jobs calls it once, after the last.
local function write_ends(queue)
  local ended = queue.ended
  on_many("ZREM", queue.deadlines, ended.ids)
  on_many("HDEL", queue.views, ended.ids)
  for list, members in pairs(ended.lists) do
    on_many("ZADD", list, members)
  end
  -- The tick may have forgotten a tenant whose last job ran; its list would then never be trimmed.
  for tenant in pairs(ended.tenants) do
    redis.call("HSETNX", queue.vt, tenant, 0)
  end
  for first = 1, #ended.bodies, 500 do
    redis.call("DEL", unpack(ended.bodies, first, math.min(first + 499, #ended.bodies)))
  end
  for state, number in pairs(ended.count) do
    redis.call("HINCRBY", queue.meta, state, number)
  end
  if #ended.silent > 0 then -- a reader that misses the last 100 calls reads the record
    redis.call("XADD", queue.ends, "MAXLEN", "~", 100, "*", "ids", table.concat(ended.silent, " "))
  end
  queue.ended = {ids = {}, silent = {}, bodies = {}, lists = {}, tenants = {}, count = {}}
end

-- Move a job whose record cannot be read to the dead letters, whatever type its keys have.
local function quarantine(queue, id, tenant, now)
  local job, out = queue.prefix .. "job:" .. id, queue.prefix .. "out:" .. id
  if redis.call("TYPE", job).ok ~= "hash" then
    redis.call("DEL", job)
  end
  if redis.call("TYPE", out).ok ~= "stream" then
    redis.call("DEL", out)
  end
  redis.call("HINCRBY", queue.meta, "quarantined", 1)
  redis.call("HSETNX", job, "tenant", tenant)
  tenant = redis.call("HGET", job, "tenant")
  end_job(queue, id, "failed", now,
    '{"code":"malformed_record","message":"The stored record could not be read. Submit the job again."}',
    tenant, nil, true)
end
