-- Bring a job to its end: the record, the terminal entry of its stream, and what must be forgotten.
-- `line` holds the key names that the caller declared; the job's own keys share their hash tag.
local function end_job(line, id, state, now, error_json)
  local job, out = line.prefix .. "job:" .. id, line.prefix .. "out:" .. id
  local seen = redis.call("HMGET", job, "attempt", "prompt_tokens", "output_tokens")
  local keep = tonumber(line.retention_ms)
  redis.call("HSET", job, "state", state, "finished_ms", string.format("%.3f", now))
  redis.call("HDEL", job, "nonce", "worker")
  if error_json ~= "" then
    redis.call("HSET", job, "error", error_json)
  end
  local ending = '{"state":"' .. state .. '","error":' .. (error_json ~= "" and error_json or "null")
    .. ',"prompt_tokens":' .. (seen[2] or "null") .. ',"output_tokens":' .. (seen[3] or "null") .. "}"
  redis.call("XADD", out, "*", "k", "end", "a", seen[1] or "0", "d", ending)
  redis.call("ZREM", line.deadlines, id)
  redis.call("HINCRBY", line.meta, state, 1)
  if state == "failed" then
    keep = tonumber(line.dead_retention_ms)
    redis.call("ZADD", line.dead, now, id)
    redis.call("PEXPIRE", line.prefix .. "in:" .. id, keep)
  else
    redis.call("ZADD", line.finished, now, id)
    redis.call("DEL", line.prefix .. "in:" .. id)
  end
  redis.call("PEXPIRE", job, keep)
  redis.call("PEXPIRE", out, keep)
end

-- A record that nobody can serve: to the dead letters, whatever it holds, and the line goes on.
local function quarantine(line, id, now)
  local job, out = line.prefix .. "job:" .. id, line.prefix .. "out:" .. id
  if redis.call("TYPE", job).ok ~= "hash" then
    redis.call("DEL", job)
  end
  if redis.call("TYPE", out).ok ~= "stream" then
    redis.call("DEL", out)
  end
  redis.call("HDEL", job, "attempt", "prompt_tokens", "output_tokens")
  redis.call("HINCRBY", line.meta, "quarantined", 1)
  end_job(line, id, "failed", now,
    '{"code":"malformed_record","message":"The stored record could not be read. Submit the job again."}')
end
