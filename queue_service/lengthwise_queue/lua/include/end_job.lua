-- Bring a job to its end: the record, the terminal entry of its stream, and what must be forgotten.
-- `line` holds the key names that the caller declared; the job's own keys share their hash tag.
-- `seen` is what the caller knows of it: tenant, attempt, prompt_tokens, output_tokens ("" or nil).
-- `more` are further fields for the record, name and value in turn.
local function end_job(line, id, state, now, error_json, seen, more)
  local job, out = line.prefix .. "job:" .. id, line.prefix .. "out:" .. id
  local keep, fields = line.retention_ms, more or {}
  fields[#fields + 1] = "state"
  fields[#fields + 1] = state
  fields[#fields + 1] = "finished_ms"
  fields[#fields + 1] = string.format("%.3f", now)
  if error_json ~= "" then
    fields[#fields + 1] = "error"
    fields[#fields + 1] = error_json
  end
  redis.call("HSET", job, unpack(fields))
  local function number(text)
    return text and text ~= "" and text or "null"
  end
  redis.call("XADD", out, "*", "k", "end", "a", seen.attempt or "0", "d", '{"state":"' .. state
    .. '","error":' .. (error_json ~= "" and error_json or "null")
    .. ',"prompt_tokens":' .. number(seen.prompt_tokens)
    .. ',"output_tokens":' .. number(seen.output_tokens) .. "}")
  redis.call("ZREM", line.deadlines, id)
  line.ended[state] = (line.ended[state] or 0) + 1
  if state == "failed" then
    keep = line.dead_retention_ms
    redis.call("ZADD", line.prefix .. "dead:" .. seen.tenant, now, id)
    redis.call("PEXPIRE", line.prefix .. "in:" .. id, keep)
  else
    redis.call("ZADD", line.prefix .. "finished:" .. seen.tenant, now, id)
    redis.call("DEL", line.prefix .. "in:" .. id)
  end
  redis.call("PEXPIRE", job, keep)
  redis.call("PEXPIRE", out, keep)
end

-- Count what ended; the last thing that a script which ends jobs does.
local function count_ended(line)
  for state, number in pairs(line.ended) do
    redis.call("HINCRBY", line.meta, state, number)
  end
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
    {tenant = tenant})
end
