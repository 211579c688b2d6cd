"""Every name that a user may write, and the definition it stands for.

Breadth lives in leaves; this page is the only place that lists them. An entry is a
``"module:attribute"`` string, resolved on demand, so reading the table imports nothing.
Other packages extend the same tables through entry points (group ``lmwright.<table>``).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from lmwright.core.errors import BadInput, nearest

STAGES = {
    "data": "lmwright.data.prepare:Data",
    "tokenizer": "lmwright.data.tokenizer:TrainTokenizer",
    "corpus": "lmwright.data.pack:Corpus",
    "pretrain": "lmwright.train.pretrain:Pretrain",
    "base": "lmwright.train.base:Base",
    "train": "lmwright.train.finetune:Train",
    "meta": "lmwright.train.meta:Meta",
    "zero-shot": "lmwright.evals.zero_shot:ZeroShotClassification",
    "prompt": "lmwright.evals.prompt:Prompt",
    "ensemble": "lmwright.evals.ensemble:Combine",
    "baselines": "lmwright.evals.baselines:Baselines",
    "evaluate": "lmwright.evals.evaluate:Evaluate",
    "index": "lmwright.rag.build:Index",
    "audit": "lmwright.audit.audit:Audit",
    "detect": "lmwright.loop.detect:Detect",
    "promote": "lmwright.loop.promote:Promote",
}

TASKS = {
    "text-classification": "lmwright.tasks.text_classification:TextClassification",
    "multi-label-classification": (
        "lmwright.tasks.multi_label_classification:MultiLabelClassification"
    ),
    "regression": "lmwright.tasks.regression:Regression",
    "token-classification": "lmwright.tasks.token_classification:TokenClassification",
    "text-generation": "lmwright.tasks.text_generation:TextGeneration",
    "summarization": "lmwright.tasks.summarization:Summarization",
    "translation": "lmwright.tasks.translation:Translation",
    "text2text-generation": "lmwright.tasks.text2text_generation:Text2TextGeneration",
    "chat": "lmwright.tasks.chat:Chat",
    "question-answering": "lmwright.tasks.question_answering:QuestionAnswering",
    "sentence-similarity": "lmwright.tasks.sentence_similarity:SentenceSimilarity",
    "text-ranking": "lmwright.tasks.text_ranking:TextRanking",
}

DERIVATIONS = {
    "unanswerable": "lmwright.tasks.unanswerable:Unanswerable",
    "turns": "lmwright.tasks.turns:Turns",
    "hard-negatives": "lmwright.tasks.hard_negatives:HardNegatives",
    "question-generation": "lmwright.tasks.question_generation:QuestionGeneration",
    "grammar-errors": "lmwright.tasks.grammar_errors:GrammarErrors",
}

TOKENIZERS = {
    "bpe": "lmwright.text.trainers.bpe:BPE",
    "wordpiece": "lmwright.text.trainers.wordpiece:WordPiece",
    "unigram": "lmwright.text.trainers.unigram:Unigram",
    "word": "lmwright.text.trainers.word:Word",
    "character": "lmwright.text.trainers.character:Character",
}

SHAPES = {
    "chat": "lmwright.data.shapes.chat:ChatRows",
    "sharegpt": "lmwright.data.shapes.sharegpt:ShareGPT",
    "alpaca": "lmwright.data.shapes.alpaca:Alpaca",
    "prompt-completion": "lmwright.data.shapes.completion:PromptCompletion",
}
"""Shapes of published conversations, in the order in which they are tried."""

OPTIMIZERS = {
    "adamw": "lmwright.train.optimizers:AdamW",
    "sgd": "lmwright.train.optimizers:SGD",
}

SCHEDULES = {
    "linear": "lmwright.train.schedules:Linear",
    "cosine": "lmwright.train.schedules:Cosine",
    "constant": "lmwright.train.schedules:Constant",
}

TUNES = {
    "full": "lmwright.models.tunes.full:Full",
    "head": "lmwright.models.tunes.head:HeadOnly",
    "freeze": "lmwright.models.tunes.freeze:Freeze",
    "bitfit": "lmwright.models.tunes.bitfit:BitFit",
    "ia3": "lmwright.models.tunes.ia3:IA3",
    "adapters": "lmwright.models.tunes.adapters:Adapters",
    "prefix": "lmwright.models.tunes.prefix:Prefix",
    "prompt": "lmwright.models.tunes.prompt:Prompt",
    "p-tuning": "lmwright.models.tunes.p_tuning:PTuning",
    "lora": "lmwright.models.tunes.lora:LoRA",
}

REGULARIZERS = {
    "l1": "lmwright.train.regularizers.penalties:L1",
    "l2": "lmwright.train.regularizers.penalties:L2",
    "r-drop": "lmwright.train.regularizers.rdrop:RDrop",
    "mixout": "lmwright.train.regularizers.mixout:Mixout",
    "averaging": "lmwright.train.regularizers.averaging:Averaging",
    "adversarial": "lmwright.train.regularizers.adversarial:Adversarial",
}

MIXINGS = {
    "uniform": "lmwright.train.mixings.shares:Uniform",
    "size": "lmwright.train.mixings.shares:Size",
    "uncertainty": "lmwright.train.mixings.uncertainty:Uncertainty",
    "surgery": "lmwright.train.mixings.surgery:Surgery",
}

METAS = {
    "maml": "lmwright.train.metas.maml:MAML",
    "reptile": "lmwright.train.metas.reptile:Reptile",
    "plain": "lmwright.train.metas.plain:Plain",
}

DISTILLATIONS = {
    "logits": "lmwright.train.distillations.logits:Logits",
    "hidden": "lmwright.train.distillations.hidden:Hidden",
    "sequences": "lmwright.train.distillations.sequences:Sequences",
    "on-policy": "lmwright.train.distillations.on_policy:OnPolicy",
}

FAMILIES = {
    "bert": "lmwright.models.zoo.bert:FAMILY",
    "openai-gpt": "lmwright.models.zoo.gpt:FAMILY",
    "gpt2": "lmwright.models.zoo.gpt2:FAMILY",
    "megatron": "lmwright.models.zoo.megatron:FAMILY",
    "bloom": "lmwright.models.zoo.megatron:BLOOM",
    "llama": "lmwright.models.zoo.llama:FAMILY",
    "mistral": "lmwright.models.zoo.llama:MISTRAL",
    "qwen2": "lmwright.models.zoo.llama:QWEN2",
    "gemma3_text": "lmwright.models.zoo.gemma3:FAMILY",
    "gemma3": "lmwright.models.zoo.gemma3:WITH_IMAGES",
    "mixtral": "lmwright.models.zoo.mixtral:FAMILY",
    "qwen2_moe": "lmwright.models.zoo.mixtral:QWEN2_MOE",
    "palm": "lmwright.models.zoo.palm:FAMILY",
    "lamda": "lmwright.models.zoo.lamda:FAMILY",
    "glam": "lmwright.models.zoo.lamda:GLAM",
    "t5": "lmwright.models.zoo.t5:FAMILY",
    "bart": "lmwright.models.zoo.bart:FAMILY",
    "xlnet": "lmwright.models.zoo.xlnet:FAMILY",
    "roberta": "lmwright.models.zoo.roberta:FAMILY",
    "xlm-roberta": "lmwright.models.zoo.roberta:XLM_R",
    "distilbert": "lmwright.models.zoo.distilbert:FAMILY",
    "xlm": "lmwright.models.zoo.xlm:FAMILY",
    "elmo": "lmwright.models.zoo.elmo:FAMILY",
    "mbart": "lmwright.models.zoo.mbart:FAMILY",
    "marian": "lmwright.models.zoo.marian:FAMILY",
    "m2m_100": "lmwright.models.zoo.m2m100:FAMILY",
    "blenderbot": "lmwright.models.zoo.blenderbot:FAMILY",
    "blenderbot-small": "lmwright.models.zoo.blenderbot:SMALL",
}

MODELS = {
    "text-model": "lmwright.models.text_model:TextPredictor",
    "adapted": "lmwright.models.adapted:AdaptedPredictor",
    "tfidf": "lmwright.baselines.tfidf:Tfidf",
    "majority": "lmwright.baselines.majority:Majority",
    "dictionary": "lmwright.baselines.dictionary:Dictionary",
    "ngram": "lmwright.baselines.ngram:Ngram",
    "frequent": "lmwright.baselines.frequent:Frequent",
    "tfidf-labels": "lmwright.baselines.tfidf_labels:TfidfLabels",
    "mean": "lmwright.baselines.mean:Mean",
    "ridge": "lmwright.baselines.ridge:Ridge",
    "lead": "lmwright.baselines.lead:Lead",
    "same": "lmwright.baselines.same:Same",
    "commonest": "lmwright.baselines.commonest:Commonest",
    "memory": "lmwright.baselines.memory:Memory",
    "overlap": "lmwright.baselines.overlap:Overlap",
    "bm25": "lmwright.baselines.matching:BM25",
    "tfidf-cosine": "lmwright.baselines.matching:TfidfCosine",
    "ensemble": "lmwright.models.ensemble:Ensemble",
    "prompted": "lmwright.tasks.prompted:Prompted",
    "zero-shot": "lmwright.tasks.zero_shot:ZeroShot",
    "zero-shot-hosted": "lmwright.tasks.zero_shot_hosted:ZeroShotHosted",
}

AUDITS = {
    "slices": "lmwright.audit.slices:Slices",
    "counterfactual": "lmwright.audit.counterfactual:Counterfactual",
    "perturbation": "lmwright.audit.perturbation:Perturbation",
    "personal": "lmwright.audit.personal:Personal",
    "consistency": "lmwright.audit.consistency:Consistency",
}

CHECKS = {
    "learnt-tokens": "lmwright.checks.learnt_tokens:check",
    "endings": "lmwright.checks.endings:check",
    "beginnings": "lmwright.checks.beginnings:check",
    "rendering": "lmwright.checks.rendering:check",
    "special-tokens": "lmwright.checks.special_tokens:check",
    "classes": "lmwright.tasks.class_check:check",
    "tagging": "lmwright.tasks.span_check:check",
    "repeats": "lmwright.checks.repeats:check",
    "leakage": "lmwright.checks.leakage:check",
}
"""Checks of a training that look at its rows and its model."""

PROBES = {
    "first-steps": "lmwright.checks.first_steps:check",
    "rate": "lmwright.checks.rate_range:check",
    "few-rows": "lmwright.checks.few_rows:check",
}
"""Checks of a training that take steps on a copy of its network."""

ADVICE = {
    "output": "lmwright.plan.advice.output:rule",
    "data": "lmwright.plan.advice.data:rule",
    "domain": "lmwright.plan.advice.domain:rule",
    "complexity": "lmwright.plan.advice.complexity:rule",
    "compute": "lmwright.plan.advice.compute:rule",
}
"""Factors of a choice of model, in the order in which their rules are asked."""

CONFIGS = {
    "axolotl": "lmwright.plan.configs.axolotl:AXOLOTL",
    "llama-factory": "lmwright.plan.configs.llama_factory:LLAMA_FACTORY",
    "trl": "lmwright.plan.configs.trl:TRL",
}
"""Configurations of other tools that recipes are made of, in the order in which they are tried."""

SECTIONS = {
    "serve": "lmwright.serve.settings:Serve",
    "watch": "lmwright.loop.watch:Watch",
    "retrain": "lmwright.loop.retrain:Retrain",
}

VERBS = {
    "run": ("lmwright.cli.run:run", "Run a recipe: what has a result is not done again."),
    "plan": ("lmwright.cli.run:plan", "Say what a run would do, why, and how long it would take."),
    "check": (
        "lmwright.cli.check:check",
        "Say what is wrong with a training before it starts.",
    ),
    "runs": ("lmwright.cli.look:runs", "List the runs, newest last."),
    "show": ("lmwright.cli.look:show", "Show a run, an artifact, a version or an alias."),
    "lineage": (
        "lmwright.cli.look:lineage",
        "From an answer to its rows, or from rows to answers.",
    ),
    "report": ("lmwright.cli.report:report", "Write a recipe's report: one self-contained page."),
    "card": (
        "lmwright.cli.report:card",
        "Write a version's model card and data card: pages and JSON.",
    ),
    "generate": ("lmwright.cli.write:generate", "Let a language model go on from a prompt."),
    "chat": ("lmwright.cli.write:chat", "Talk to a language model in the terminal."),
    "inspect": ("lmwright.cli.inspect:inspect", "Draw a model; say what it holds and costs."),
    "compare": ("lmwright.cli.inspect:compare", "Show what two models are made of."),
    "export": ("lmwright.cli.export:export", "Write a model in a format that others read."),
    "doctor": ("lmwright.cli.doctor:doctor", "Check the machine, or explain a run that failed."),
    "promote": (
        "lmwright.cli.act:promote",
        "Put a version behind an alias by hand, past the gate.",
    ),
    "rollback": ("lmwright.cli.act:rollback", "Bring the former version of an alias back."),
    "withdraw": (
        "lmwright.cli.act:withdraw",
        "Withdraw a source: list and bar what learnt from it.",
    ),
    "reinstate": (
        "lmwright.cli.act:reinstate",
        "Take the withdrawal of a source back.",
    ),
    "retire": ("lmwright.cli.act:retire", "Let an alias name nothing."),
    "serve": (
        "lmwright.cli.serve:serve",
        "Answer over HTTP from what an alias names, or from a language model.",
    ),
    "predict": ("lmwright.cli.predict:predict", "Answer the rows of a file."),
    "search": ("lmwright.cli.search:search", "Find the texts of an index nearest to a query."),
    "replay": (
        "lmwright.cli.replay:replay",
        "Play a kept test set as traffic; the loop reacts.",
    ),
    "init": ("lmwright.cli.init:init", "Write a working recipe for a table of your own."),
    "advise": (
        "lmwright.cli.advise:advise",
        "Say which task, model and way to tune a table of your own asks for, and why.",
    ),
    "new": ("lmwright.cli.new:new", "Write a recipe that is shipped, or list those that are."),
    "completion": (
        "lmwright.cli.completion:completion",
        "Print a script by which a shell completes verbs, options and recipes.",
    ),
    "gc": ("lmwright.cli.act:gc", "Remove what no alias, recent run or running work needs."),
}
"""Verb -> what it runs and its sentence; help is printed from here without importing anything."""

TABLES = {
    "stages": STAGES,
    "sections": SECTIONS,
    "tasks": TASKS,
    "derivations": DERIVATIONS,
    "tokenizers": TOKENIZERS,
    "shapes": SHAPES,
    "configs": CONFIGS,
    "families": FAMILIES,
    "models": MODELS,
    "audits": AUDITS,
    "checks": CHECKS,
    "probes": PROBES,
    "advice": ADVICE,
    "optimizers": OPTIMIZERS,
    "schedules": SCHEDULES,
    "tunes": TUNES,
    "regularizers": REGULARIZERS,
    "mixings": MIXINGS,
    "metas": METAS,
    "distillations": DISTILLATIONS,
}


def entries(table: str) -> dict[str, str]:
    """The table's own entries and those that installed packages add."""
    from importlib.metadata import entry_points

    added = {point.name: point.value for point in entry_points(group=f"lmwright.{table}")}
    return {**added, **TABLES[table]}


def module_of(table: str, name: str) -> str:
    """The module that ``name`` stands in, without importing it."""
    known = TABLES[table] if name in TABLES[table] else entries(table)
    if name not in known:
        raise BadInput(f"{name!r} is not among the {table}", "a known name", nearest(name, known))
    return module_at(known[name])


def resolve(table: str, name: str) -> Any:
    """The definition that ``name`` stands for; BadInput names the nearest one if there is none."""
    module_of(table, name)
    known = TABLES[table] if name in TABLES[table] else entries(table)
    return definition_at(known[name])


def definition_at(place: str) -> Any:
    """The definition at ``"module:attribute"``."""
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)


def module_at(place: str) -> str:
    """The module of ``"module:attribute"``, without importing it."""
    return place.partition(":")[0]
