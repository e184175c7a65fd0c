-- Bring a job to its end: the record, the terminal entry of its stream, and what must be forgotten.
-- A job that never said anything (not `spoke`) has no stream, and gets none for its end alone: the
-- record tells it, and `settle` wakes those who wait. A stream would cost 4 us and 4 kB.
-- `line` holds the key names that the caller declared; the job's own keys share their hash tag.
-- `more` are further fields for the record, name and value in turn, and may be nil like the rest;
-- `usage` is "prompt output", tokens, each of which may be "".
-- Sets that many jobs leave or join are left to `settle`: a command costs the server twice what a
-- further member of one does (docs/research/experiments.md, "a no-op job, again").
local function end_job(line, id, state, now, error_json, tenant, attempt, spoke, more, usage)
  local job = line.prefix .. "job:" .. id
  local keep, fields, ended = line.retention_ms, more or {}, line.ended
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
  local list = line.prefix .. "finished:" .. tenant
  if state == "failed" then
    keep, list = line.dead_retention_ms, line.prefix .. "dead:" .. tenant
    redis.call("PEXPIRE", line.prefix .. "in:" .. id, keep)
  else
    ended.bodies[#ended.bodies + 1] = line.prefix .. "in:" .. id
  end
  ended.tenants[tenant] = true
  local members = ended.lists[list] or {}
  ended.lists[list] = members
  members[#members + 1] = ended.at
  members[#members + 1] = id
  redis.call("PEXPIRE", job, keep)
  if spoke then
    local out = line.prefix .. "out:" .. id
    local prompt, output = string.match(usage or "", "^(%d*) (%d*)$")
    redis.call("XADD", out, "*", "k", "end", "a", attempt or "0", "d", '{"state":"' .. state
      .. '","error":' .. (error_json ~= "" and error_json or "null")
      .. ',"prompt_tokens":' .. (prompt and prompt ~= "" and prompt or "null")
      .. ',"output_tokens":' .. (output and output ~= "" and output or "null") .. "}")
    redis.call("PEXPIRE", out, keep)
  else
    ended.silent[#ended.silent + 1] = id
  end
end

-- A command on many members, some hundreds at a time: what unpack takes is bounded.
local function on_many(command, key, members)
  for first = 1, #members, 500 do
    redis.call(command, key, unpack(members, first, math.min(first + 499, #members)))
  end
end

-- The rest of every end of this call: whoever ends jobs calls it once, behind the last of them.
local function settle(line)
  local ended = line.ended
  on_many("ZREM", line.deadlines, ended.ids)
  for list, members in pairs(ended.lists) do
    on_many("ZADD", list, members)
  end
  -- The tick may have forgotten a tenant whose last job ran; unknown, its list would never be trimmed.
  for tenant in pairs(ended.tenants) do
    redis.call("HSETNX", line.vt, tenant, 0)
  end
  for first = 1, #ended.bodies, 500 do
    redis.call("DEL", unpack(ended.bodies, first, math.min(first + 499, #ended.bodies)))
  end
  for state, number in pairs(ended.count) do
    redis.call("HINCRBY", line.meta, state, number)
  end
  if #ended.silent > 0 then -- whoever missed one of the last 100 calls still looks at the record
    redis.call("XADD", line.ends, "MAXLEN", "~", 100, "*", "ids", table.concat(ended.silent, " "))
  end
  line.ended = {ids = {}, silent = {}, bodies = {}, lists = {}, tenants = {}, count = {}}
end

-- A record that nobody can serve: to the dead letters, whatever it holds, and the line goes on.
local function quarantine(line, id, tenant, now)
  local job, out = line.prefix .. "job:" .. id, line.prefix .. "out:" .. id
  if redis.call("TYPE", job).ok ~= "hash" then
    redis.call("DEL", job)
  end
  if redis.call("TYPE", out).ok ~= "stream" then
    redis.call("DEL", out)
  end
  redis.call("HINCRBY", line.meta, "quarantined", 1)
  redis.call("HSETNX", job, "tenant", tenant)
  tenant = redis.call("HGET", job, "tenant")
  end_job(line, id, "failed", now,
    '{"code":"malformed_record","message":"The stored record could not be read. Submit the job again."}',
    tenant, nil, true)
end
