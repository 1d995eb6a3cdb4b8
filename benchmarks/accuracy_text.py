"""What docs/accuracy.md says around its tables."""

TOP = """# Accuracy

Written by `benchmarks/scoreboard.py`; do not edit. An error is predicted over measured, minus 1. The data
are public and not part of the repository. What was fitted to runs on this page: the time outside the
engine, `client_s`, per engine, release and host type, and what SGLang of November 2025 stood still for when
it first cut a prompt, both to one half of the models (`FITTED` in `benchmarks/silicon_points.py`,
`CLIENT_S` and `FIRST_CUT_S` in `silicon_settings.py`; `benchmarks/fit_hosts.py` prints them; vLLM 0.6 to
Llama, `apex_gate.py --fit`); and what the host takes a sequence where asynchronous scheduling hides it, to
the means of the two recordings of Llama (`fit_hidden_host.py`); and how late a balancer of ranks hears of
them, to who went to which (`recorded_ranks.py`). No other number was fitted, but choices
were made with the errors in sight, those of models held out too: which settings of an engine's scripts hold
where a row does not tell them (that NVIDIA's runs follow AIConfigurator's rules, but SGLang's not; what its
clients ask of sampling; Qwen3.5's running limit), which table stands for a kernel, whose host for TensorRT-
LLM's, and that one interval's width serves all engines. Read the held-out rows as untouched by numbers, not
by eyes.

```sh
python benchmarks/scoreboard.py ../shared/data --store scoreboard.duckdb --quick --out slice.md
```

writes the first section below to a file. For the whole page `python benchmarks/silicon_gate.py
../shared/data/measured/silicon --store scoreboard.duckdb --rows points.csv` comes first, ten minutes or more
on an idle machine, less with a `points.csv` of which nothing changed; then the line above with
`--rows points.csv` in place of its last three words.

## One replica, request by request

vLLM 0.19 recorded by LLMServingSim, predicted from the same project's kernel profiles of the same GPUs; what
these lack, how two cards exchange rows, is from NVIDIA's public table of the card. One run alone: `servecast
validate spec/llama.llm FOLDER --sku rtx-4090 --source llmservingsim --source silicon`; without the last two
words the exchange is the data sheet's, and Qwen3-30B's mean TTFT, TPOT and E2E are 22, 3.8 and 4.4 % short.
The aim was TTFT within 6 %, TPOT within 2 %, E2E within 2.5 %, in mean and percentiles, without a
fitted constant but named terms of engine or host with one value for all runs. There are two: 2.5 us of the
host for each sequence of a step (`HIDDEN_HOST` in `estimator/engine_profile.py`), by which the sum of squares
of the two Llamas' means is least, their percentiles and Qwen3's run playing no part in it; and 10 ms until
the balancer of Qwen3's ranks hears of them, fitted to who went where, not to a latency
(`recorded_ranks.py`)."""

OPEN_LOOP = """
## Open loop, vLLM 0.6 and SGLang 0.4 on H100

106 runs that APEX+ recorded; means per run. The aim was a median TPOT error of 8 % and TTFT of 15 %.
Settings are those of the recording's scripts. Its numbers are counters of a server, and 26 runs were asked
of a server that had counted before: of those a run is what it added. A trace that is not among the data is
put together from those of four replicas, which took its requests in turn. SGLang's recorded time per token
is none (a wrong counter) and is not compared. `python benchmarks/apex_gate.py FOLDER --store FILE` prints
the same as JSON.
"""

MIDDLE = """
## Many models, GPUs and engines

Public serving points (`aiconfigurator-core`; SemiAnalysis InferenceX and NVIDIA runs), each a closed loop
of C clients, predicted from the same package's kernel timings of the point's engine (vLLM, SGLang,
TensorRT-LLM; of each table the newest whole version, of all-reduces one of the engine's time),
started as InferenceX's public scripts start it
(`benchmarks/silicon_settings.py`), NVIDIA's as AIConfigurator's rules say. {state} Errors are means of
absolute percentages, medians in brackets; a bias is a median. "Theirs" is AIConfigurator 0.12 on the rows
that it answers. Constants may be fitted to {fitted}; all other models are held out. The aim was, on dense
models on H100 and H200, TTFT 15 % and TPOT 5 %; over all rows TTFT 25 %, TPOT 12 %, 90 % answered.
"""

COVERAGE = """
## Intervals

A point's 90 % interval is a factor either way: what nine in ten points of the models that may be fitted to
keep to. Coverage is the share of measured values inside; it should be 85 to 95 %. Runs that draft have
widths of their own: their prompts are launched layer by layer, the drafting layer too, and so much was
known before a width was; no run of a model held out drafts as simulated. One width for all covered 97 % of
the TTFT of models held out, for it was the drafting runs'. By engine there are one or two models to
calibrate on: such widths covered 78 %, and are not used.

Open-loop runs are APEX+'s: widths from Llama's, tried on Mistral's and Mixtral's, SGLang's runs among them
whose steps are their host's launches.

A recording's statistics (mean and four percentiles) are held against the width of the other two
recordings'. Two runs are few to calibrate on, and where one of three is further off than both others, no
width of theirs holds it; queue delays stand in recordings alone. Beside them stands the coverage of a metric
over all that is held out: recordings, points (whose latency from end to end is their TTFT and a TPOT for each
further token) and open-loop runs. The intervals in the recordings' own tables are of other samples of the
same requests, and tell nothing of what is wrong with a prediction.
"""

BOTTOM = """
## Where the errors come from

What was found and put right:

- **A client is not back in no time, and vLLM schedules ahead.** A closed loop without either lets every
  request into the very next step. With asynchronous scheduling, as the scripts ask for, TTFT of Llama 70B
  on vLLM and H100 went from 13 % to 6 % without a fitted constant.
- **Cached prefixes, and preempted requests that find their blocks again.** vLLM's freed blocks stay cached
  until taken. The RTX 4090 recording, short of blocks all along, went from +4.8 % in TTFT and +2.8 % in TPOT
  to less than one.
- **Prefill and decodes in one attention launch are slower than apart**, measured 20 to 100 % on the
  decodes' part: with asynchronous scheduling it halves the RTX PRO 6000's error.
- **A long sequence keeps its batch's attention waiting**: where FlashAttention does not split sequences
  over blocks, the longest ends last. LLMServingSim timed such batches (`skew.csv`). A queue of the kernel's
  blocks, with one number for all GPUs and no fit to a run, foretells these launches within 1.0 to 1.4 % on
  average (`benchmarks/decode_queue.py`), also at batches that no profile has. By it TTFT, TPOT and E2E of the
  RTX PRO 6000's Llama went from -8.5, -3.1 and -4.5 % to within 1 %; LLMServingSim's own simulation of that
  run is 4.0, 1.0 and 1.8 % short (`llmservingsim_validation.txt` beside it). The RTX 4090's profile says
  that it has no such sweep, though the file is there, and it is not read: chosen with that run's errors in
  sight. Reading it made them longer: steps of few decodes, which are split and have no skew, are
  already too long there by the profile's kernels.
- **Data-parallel ranks that share experts wait for each other in every step**, and an expert has what both
  ranks sent it. vLLM gathers the rows once, and of each the numbers and the weights of its experts, two
  small messages more (`AgRsAll2AllManager`), and scatters the results: timed by NVIDIA's public NCCL table
  of the very GPU, though vLLM launches the three as one group. Every rank has the rows of the other's experts
  in its own buffers, too: zeroed, activated and summed in vain (`TritonExperts`), at the data sheet's
  bandwidth. Small batches replay the largest rank's graph. And vLLM's balancer hears of its ranks at
  most every 100 ms, and late (`vllm_ranks`). Together, none of it fitted to a latency, they brought
  Qwen3-30B from -16.7, -2.2 and -2.8 % to what stands above.
- **The host's time for a sequence of a step**, where it is hidden, had been assumed as 4 us, too much for
  both recordings of Llama (`benchmarks/fit_hidden_host.py` prints their means with each).
- **A step's GEMMs take whole tiles**: between the multiples of 64 tokens at which times were predicted they
  were drawn in a straight line, so that half of all steps with a prompt were too short by half a tile.
  Seen in single steps of the recordings (`benchmarks/recorded_steps.py`), which climb stairs.
- **An expert-parallel rank's kernel was the measured one with the nearest number of experts hit**: of 32
  routed tokens 64 in the place of 56. It is taken between two measured ones now.
- **TensorRT-LLM's fp8 GEMM rows find their input's scale first**, 8 to 12 µs by a table of its own;
  checkpoints with static scales skip it. Without it TPOT of Llama 70B fell from 21 % to 5 % on H200, from
  33 % to 7 % on B200.
- **"Balanced" experts read all weights from 32 tokens on**, which no routing does. With the mildest power
  law, the publisher's own default, TPOT of DeepSeek on TensorRT-LLM without drafting fell from 24 % to 11
  %, of gpt-oss on vLLM from 16 to 30 % to 7 to 15 %.
- **TensorRT-LLM waits 20 steps for a batch to fill** where InferenceX's script asks for it (1024 in and
  out, tp below 8): TTFT is 20 times TPOT longer at any load. With data-parallel attention it waits until
  every rank has a prompt; both are in `benchmarks/silicon_settings.py` by the scripts' own numbers.
- **What lies outside the engine belongs to a release**: that of October 2025's vLLM on B200 was too much
  for 0.15. It is fitted by release; another takes the least that any host of its engine has. A client is
  away for as long between two requests.
- **NVIDIA's runs are AIConfigurator's**, and its generator's rules for benchmarks are public: a step holds
  one prompt, 1,500 tokens and the clients, and TensorRT-LLM cuts none. With a budget of 8,192 all prompts
  of lock-stepped clients were one batch: TTFT of Qwen3-32B was 39 % off on TensorRT-LLM, 40 % on vLLM,
  where 16 % and 14 % are left.
- **vLLM's clients on H100**: `fit_hosts.py` prints 0 of points simulated with 5 ms, and 5 ms of points
  simulated with none. The points it is fitted to are 5.6 % off in the median with 5 ms and 5.8 % without,
  so 5 ms stand. Qwen3-32B, held out, depends on it far more: TTFT is 14 % off with it and 31 % without, for
  clients who come back at once stay in step.
- **SGLang stood still once** on two days of November 2025: TTFT was seconds longer exactly in the points
  whose first prompts exceed one step's tokens, as if a kernel were compiled when the first prompt is cut.
  One number for each of the two runs; they were held for a fault before.
- **Qwen3.5's linear attention** has an operator now, and B300 and GB200 a datasheet.
- **One source of the points multiplies tp by ep**: the same measurements stand in its other sources with
  the plain degrees; they are read so.
- **SGLang looks for new requests every 10 or 30 decode steps** where its script asks for it: most of what
  its TTFT on Blackwell lacked.
- **Runs that draft, and whose rows do not say so.** InferenceX's multi-token-prediction runs of DeepSeek-R1
  on TensorRT-LLM are known by image and day (`benchmarks/silicon_runs.py`, with the pull requests that
  tell). Simulated with the tokens that their scripts draft and with the acceptance that SGLang's makers
  published for DeepSeek-V3 (2.18 tokens a check with two drafted, 2.44 with three), TPOT of these 57 rows
  is 14 % off, where it was 39 %. Nothing was fitted to it.
- **Experts' models read one size for another.** The samples of a kernel and the launches of a program name
  its sizes in different orders, and a model took them as they came: experts of a shape that no table has
  were too slow. TPOT of gpt-oss on TensorRT-LLM and B200, whose table knows the experts of one GPU
  only, went from 14.6 % off to 6.2 %, held out as it is. Rows of a table, and GEMMs, were right.
- **All-reduces of another version.** The newest tables' small all-reduces are 2 us faster than those of the
  engines that were measured; a step of Qwen3-32B has 128. Tables of older versions are public, and a point
  takes the oldest that is not older than its engine (`benchmarks/silicon_collectives.py`), but TensorRT-LLM
  1.0 and 1.1 not that of 1.2: 1.2 looked its kernel up in a list, which costs 11 us on 4 GPUs where one
  kernel takes 4. On SGLang the TPOT error of Qwen3-32B fell from 8.4 to 7.1 %.
- **NVIDIA's TensorRT-LLM 1.0 waited for its host.** AIConfigurator's templates of that time switch the
  overlap scheduler off unless told otherwise, and its generator told engines that only decode. With vLLM's
  synchronous host in place of TensorRT-LLM's, which nobody measured, TPOT of its 94 points is 2.9 % off,
  where it was 6.9 %, on 8 GPUs 2.3 % where it was 11.6 %. With 1.2's all-reduces 4 GPUs had looked right
  without, so the missing millisecond seemed to grow with the GPUs. Nothing was fitted to it.
- **vLLM's host, where no asynchronous scheduling hides it.** 0.4 ms a step and 4 us a sequence had been
  assumed. A real vLLM takes 0.7 ms and 17 us (`benchmarks/vllm_host.py`, on a processor of ours; no serving
  point is in it). Together with the all-reduces, the TPOT error of Qwen3-32B in bf16 on vLLM fell from 13.3
  to 7.6 %. They are the synchronous profile's now; the asynchronous ones hide them.
- **vLLM sorts the vocabulary.** NVIDIA's clients tell no temperature, so the model's
  `generation_config.json` holds: Qwen3's asks for the best 20 tokens and 95 % of the probability, and vLLM
  0.12 sorts 152,000 logits of each request for that: 20 us each, by what vLLM's makers published (pull
  request 40376). TPOT of Qwen3-32B on vLLM is 3.6 % off with it, where it was 7.6 %. InferenceX's clients
  ask for a temperature of 0, SGLang's benchmark too.
- **SGLang runs prompts first and lets all decodes wait**; with NVIDIA's fixed lengths its clients stay in
  step, and TTFT is a whole convoy. Batched as SGLang does, Qwen3-32B's TTFT error fell from 61 % to 14 %,
  TPOT's from 20 % to 8 %; nothing was fitted to it.
- **APEX+'s servers kept counting.** A run's recorded means are Prometheus counters since its server began,
  and `scale_*.sh` asked one server for three traces, Mistral's four of two GPUs each had six: their sums of
  latencies only grow, and are not what the run's own tokens took. Prompts of 354 tokens seemed to wait 224 ms
  and those of 2,760 tokens 199 ms. What each run added to the one before is 103 and 466 ms, and Mistral's
  TTFT error at tp 2 is 10 %, where it was 58 %.
- **vLLM 0.6 cuts the prompts of a model whose context is above 32,768 tokens** into 512 a step, unless told
  otherwise (`vllm/engine/arg_utils.py`; pull request 6666); APEX+'s scripts told it where two GPUs serve, by
  a shorter context. Whole prompts were simulated everywhere: Llama's long prompts came out 27 to 40 % short
  at tp 4 and 8, and are 9 to 19 % short now.
- **SGLang's "first token" is the fiftieth** where a client does not stream: it tells of such a request every
  fifty tokens. 2.6 s of TTFT are 53 times the time per token of the same run.

The groups with the largest errors, and what is known of their causes:

- **SGLang 0.4 on Mixtral, open loop**: no CUDA graphs, so a step takes the host's launches, 49 ms on tensor-
  parallel GPUs and 58 with parallel experts, by the sums of latencies, whatever the batch; predicted are the
  kernels, 7 to 40 ms. No engine's profile has launches by the layer, and there is no other model to fit them
  to.
- **Mistral Large on vLLM 0.6, tp 4 and 8, open loop**: the scripts round weights to fp8 on loading
  (`--quantization fp8`), and then activations in each step: 512 tokens of a prompt take 70 ms on 4 GPUs and
  on 8. That is the host's launches, as above; the checkpoint rounded before, on 4 GPUs, takes less. TPOT,
  too, is 12 to 17 % short there and grows with the sequences, as Llama's does: 0.4 ms each where the profile
  assumes 0.04.

- **Dense models at tp 4 and 8 on vLLM and SGLang**: steps of Llama and of Qwen3-32B miss 0.6 to 0.7 ms
  there, at tp 2 none, Llama's on TensorRT-LLM none at any tp. Ranks that wait for the slowest at each
  all-reduce would miss more at 8 GPUs than at 4, which Llama's do not; not known. SGLang 0.5.1's GEMM and
  attention tables are not public; those of 0.5.14 stand for them.
- **Llama on 8 H200, TensorRT-LLM, 128 clients**: 5 ms a token more than predicted at any length, with 64
  clients none: as if steps of that many were not replayed from a graph. On 2 GPUs, whose kernels take
  longer than their launches, nothing is missing.
- **Qwen3-32B on vLLM, tp 2, 64 clients of 4,096 tokens**: the cache was full, and TTFT a queue.
- **gpt-oss-120b fp4 h100 and h200 vllm**: the scripts take Marlin experts (`VLLM_MXFP4_USE_MARLIN=1`), the
  tables time Triton's: long prompts take twice as long. At 32 clients and tp 4 one run took 15.9 ms a token
  where 64 clients took 9.7: a fault of that run.
- **gpt-oss-120b fp4 b200 vllm**: the script asks for experts whose inputs are rounded to fp8
  (`VLLM_USE_FLASHINFER_MOE_MXFP4_MXFP8=1`); vLLM's table times those that take bf16: 8 to 128 rows on one
  GPU take 30 to 50 % longer than in TensorRT-LLM's table, which times the former.
- **DeepSeek-R1 trtllm, drafting with data-parallel attention (12 rows)**: TPOT of long prompts comes out a
  third too short. The ranks are simulated apart, but each waits for the others' prompts.
- **DeepSeek-R1 trtllm, TTFT**: on H200 without drafts 10 steps longer than predicted, with drafts up to
  four times as long after short prompts, on B200 half as long again to twice: prompts are launched layer by
  layer from the host, the drafting layer too, which no kernel's time holds.
- **DeepSeek-R1 fp8 b200 trtllm, 1.2.0rc6 (three rows)**: 13 and 17 ms a token against 19 and 23; the
  scripts take TensorRT-LLM's own experts since then, the table times others.
- **gpt-oss-120b fp4 h200 trtllm**: TensorRT-LLM's table knows the experts of one GPU; other degrees are its
  model's. 64 clients on one GPU waited 26 s for their first token at the time per token of fewer: a limit
  that the script does not tell.
- **SGLang's runs that draft**: Qwen3.5 fp8 of 0.5.9 at tp 4, ep 1 on B200 and B300 is
  `qwen3.5_fp8_b200_mtp.sh`'s (image v0.5.9-cu130, where the others have v0.5.9-cu130-amd64), and
  DeepSeek-R1 fp8 on B200 of 2026-03-25 is of both kinds, pairs of equal labels a third apart. They are
  simulated without drafts: SGLang's batches know none, and the latter rows cannot be told apart.
- **DeepSeek-R1 and Qwen3.5 fp8 on sglang, B200**: prompts of 8,192 tokens take well over half as long again
  as the tables' kernels, by TTFT and by what they add to TPOT, and fp4's do not: another kernel for fp8
  experts than the script asks for. Outputs of 8,192 tokens are batched as vLLM does: SGLang's own policy
  runs in plain classes there.
- **Qwen3.5 on sglang, B200 and H200, 0.5.9 and nightly builds of February 2026**: a step takes 1 to 3 ms
  more than predicted from the first client on, in bf16 and fp8, at tp 4 and 8. Runs of 0.5.10 on B300 and
  of April's nightly on B200 do not: TPOT of those 35 rows is 6 % off, 2 % too long in the mean. The tables
  are 0.5.14's, and no older ones are public; until then each linear attention launched four projections
  apart (SGLang's pull request 20074). fp8's long prompts on B200 are as above. Held out.
- **gpt-oss-120b h100 and h200 vllm, TTFT**: prompts take 1.9 times the tables' at any length: Marlin's
  experts, as above, which were timed for other shapes alone.
- **Time outside the engine** of SGLang on B200 and H200 (above 100 ms) holds more than a client: launches
  of prefill layers from the host, and answers sent every 10 to 50 tokens.

What is not answered, by rules that look at no prediction (`benchmarks/silicon_runs.py`): fleets of GB200
whose GPUs are labelled as one tensor-parallel group; five rows of gpt-oss on H100 whose script told its
client 512 at any concurrency, while prompts and the engine's running limit had another number (their TTFT
is that of ten prompts for each of 4, 8 or 64 running requests); eleven rows of fleets behind Dynamo
0.9.0, in which the time per token follows the clients of the fleet: 8 ms with one, 21 with two who have an
engine each, 133 with 64; and eight of NVIDIA's rows that tell no clients, only the largest batch that their
engine was built for. Left in, simulated as labelled, the first five alone would add two points to the
mean TPOT error of all rows, the eleven 0.7, and the eight, taken to have as many clients as that batch, 0.2;
of dense models on H100 and H200 these add 0.7.

In Qwen3-30B's recording a queue decides TTFT above the median. From 24 s on all places are taken, and a
request waits for others to end; at which of the two ranks is the balancer's choice. The recording's own
clocks show of 214 pairs of requests whether they shared a rank (`benchmarks/recorded_ranks.py`). With
vLLM's coordinator as it is, which holds a step's counts back until another step or 50 ms follow, and with
8 to 11 ms until a count is heard, the simulation sends 31 of these pairs otherwise; without those
milliseconds 53. The 10 ms of `vllm_ranks` were chosen by the pairs, not by a latency, though with the
errors in sight. Other times send some requests elsewhere: in the same table, from 0 to 20 ms, the 90th
percentile of TTFT lies between 8 % short and 7 % long. Between it and the 95th, 5.2 and 8.4 s, each
request waits 0.2 s longer than the one before, so that 6 % are one or two requests.

Single steps whose sizes a recording tells need neither queues nor a simulation: `python
benchmarks/recorded_steps.py ../shared/data --store new.duckdb` prints how far off they are. On the RTX PRO
6000 steps of 33 to 64 decodes of Llama take 7.5 % longer than foretold, those of 97 to 128 are 3.8 % shorter,
and the former begins and ends at a step of the GEMMs' tiles: cuBLAS takes other kernels in the engine's
graphs than in the profile's launches. Nothing but a profile of graphs would tell.

Worst groups now, by the sum of both mean errors:
"""
