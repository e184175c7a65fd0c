// The official client for Node. Prints the outcome of each scenario as JSON, as programs/ do.
import assert from 'node:assert/strict';
import OpenAI, { toFile } from 'openai';

const SCRIPTED = process.env.LENGTHWISE_SCRIPTED;
const SIMULATED = process.env.LENGTHWISE_SIMULATED;
const client = new OpenAI({ timeout: 60_000 });
const messages = [{ role: 'user', content: 'Hello there' }];
const parameters = { type: 'object', properties: { city: { type: 'string' } } };
const person = { type: 'object', properties: { name: { type: 'string' }, age: { type: 'integer' } } };

const scenarios = {
  async models() {
    const names = [];
    for await (const model of client.models.list()) names.push(model.id);
    assert(names.includes(SCRIPTED) && names.includes(SIMULATED));
  },

  async chat() {
    const done = await client.chat.completions.create({ model: SCRIPTED, messages });
    assert.equal(done.choices[0].message.content, 'You said: Hello there');
    assert.equal(done.usage.total_tokens, 18);
    assert(done._request_id);
  },

  async chat_stream() {
    const stream = await client.chat.completions.create({
      model: SCRIPTED,
      messages,
      stream: true,
      stream_options: { include_usage: true },
    });
    let text = '';
    let usage;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta?.content ?? '';
      usage = chunk.usage ?? usage;
    }
    assert.equal(text, 'You said: Hello there');
    assert.equal(usage.total_tokens, 18);
  },

  async chat_stream_that_is_given_up() {
    const stream = await client.chat.completions.create({ model: SIMULATED, messages, stream: true });
    for await (const chunk of stream) {
      assert(chunk.id);
      break;
    }
  },

  async tools() {
    const asked = [];
    const weather = {
      type: 'function',
      function: {
        name: 'weather',
        description: 'The weather of a city',
        parameters,
        parse: JSON.parse,
        function: ({ city }) => {
          asked.push(city);
          return 'sunny';
        },
      },
    };
    const runner = client.chat.completions.runTools({ model: SCRIPTED, messages, tools: [weather] });
    assert.equal(await runner.finalContent(), 'You said: sunny');
    assert.deepEqual(asked, ['Paris']);
  },

  async structured_output() {
    const json_schema = { name: 'person', schema: person };
    const done = await client.chat.completions.parse({
      model: SCRIPTED,
      messages,
      response_format: { type: 'json_schema', json_schema },
    });
    assert.deepEqual(JSON.parse(done.choices[0].message.content), { name: 'Ada', age: 36 });
  },

  async completions() {
    const done = await client.completions.create({ model: SIMULATED, prompt: 'Once', max_tokens: 5 });
    assert(done.choices[0].text);
  },

  async responses() {
    const first = await client.responses.create({ model: SCRIPTED, input: 'Hello there' });
    assert.equal(first.output_text, 'You said: Hello there');
    const second = await client.responses.create({
      model: SCRIPTED,
      input: 'And again',
      previous_response_id: first.id,
    });
    assert.equal(second.output_text, 'You said: And again');
    assert.equal((await client.responses.retrieve(first.id)).output_text, first.output_text);
  },

  async responses_stream() {
    const stream = client.responses.stream({ model: SCRIPTED, input: 'Hello there' });
    const kinds = [];
    for await (const event of stream) kinds.push(event.type);
    assert.equal(kinds.at(0), 'response.created');
    assert.equal(kinds.at(-1), 'response.completed');
    assert.equal((await stream.finalResponse()).output_text, 'You said: Hello there');
  },

  async errors() {
    const ask = (more) => client.chat.completions.create({ model: SCRIPTED, messages, ...more });
    await assert.rejects(ask({ model: 'none' }), OpenAI.NotFoundError);
    await assert.rejects(ask({ messages: [] }), OpenAI.BadRequestError);
    const refused = [{ role: 'user', content: 'refuse me' }];
    await assert.rejects(ask({ messages: refused }), OpenAI.BadRequestError);
    await assert.rejects(ask({ messages: refused, stream: true }), OpenAI.BadRequestError);
  },

  async embeddings_are_refused() {
    const made = client.embeddings.create({ model: SCRIPTED, input: 'Hello' });
    await assert.rejects(made, OpenAI.NotFoundError);
  },

  async many_at_once() {
    const ask = (n) =>
      client.chat.completions.create({
        model: SIMULATED,
        messages: [{ role: 'user', content: `question ${n}` }],
        max_tokens: 5,
      });
    const answers = await Promise.all([...Array(20).keys()].map(ask));
    assert.equal(new Set(answers.map((answer) => answer.id)).size, 20);
  },

  async batches() {
    const line = (custom_id, content) =>
      JSON.stringify({
        custom_id,
        method: 'POST',
        url: '/v1/chat/completions',
        body: { model: SCRIPTED, messages: [{ role: 'user', content }] },
      });
    const file = await client.files.create({
      file: await toFile(Buffer.from(`${line('one', 'first')}\n${line('two', 'second')}\n`), 'in.jsonl'),
      purpose: 'batch',
    });
    let batch = await client.batches.create({
      input_file_id: file.id,
      endpoint: '/v1/chat/completions',
      completion_window: '24h',
    });
    const ends = Date.now() + 30_000;
    while (!['completed', 'failed'].includes(batch.status)) {
      assert(Date.now() < ends, batch.status);
      batch = await client.batches.retrieve(batch.id);
    }
    assert.equal(batch.request_counts.completed, 2);
    const output = await (await client.files.content(batch.output_file_id)).text();
    assert.equal(output.trim().split('\n').length, 2);
    assert((await client.files.delete(file.id)).deleted);
  },
};

const outcomes = {};
for (const [name, scenario] of Object.entries(scenarios)) {
  try {
    await scenario();
    outcomes[name] = 'ok';
  } catch (error) {
    outcomes[name] = String(error.stack).slice(0, 2500);
  }
}
console.log(`\n${JSON.stringify(outcomes)}`);
process.exit(0);
