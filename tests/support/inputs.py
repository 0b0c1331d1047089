"""Tables of command lines: wrong ones with what is said about them, doubtful ones with their warning, and right ones.

One command line per line, its words separated by two spaces; `own=X` is a model `X` of one's own. Behind `=>` stand the
key and a part of the message or hint; a second problem follows behind `&`.
"""

from __future__ import annotations

WRONG = {
    "nodes": r"""
optimizer._partial_=true => optimizer._partial_: lrflow needs the object itself
optimizer._partial_=maybe => optimizer._partial_: expected true or false
model._partial_=true => model._partial_: lrflow needs the object itself
data._partial_=true => data._partial_: leave it out
feedback=plateau  feedback._partial_=true => feedback._partial_: not a function that makes it
layers=layer_decay  layers._partial_=true => layers._partial_: the object itself
optimizer=muon  optimizer.routes.muon._partial_=true => optimizer.routes.muon._partial_: the object itself
health.sharpness._partial_=true => health.sharpness._partial_: the object itself
optimizer._args_=[1] => optimizer._args_: the other arguments need their names
optimizer._args_=3 => optimizer._args_: expected a list of arguments
model._args_=3 => model._args_: expected a list of arguments
model._args_=[[64]] => model.shape: is also given by position
optimizer._convert_=all => optimizer._convert_: lrflow has no such key for a node
model._recursive_=false => model._recursive_: known: _target_, _partial_, _args_
optimizer._target_=torch.optim.AdamWW => optimizer._target_: did you mean AdamW?
optimizer._target_=torch.optm.AdamW => optimizer._target_: is not trusted
optimizer._target_=AdamW => optimizer._target_: the dotted name of a class
optimizer._target_=5 => optimizer._target_: expected text
model._target_=lrflow.models.MPL => model._target_: did you mean MLP?
data._target_=lrflow.data.Digts => data._target_: did you mean Digits?
layers._target_=lrflow.layers.LayerDecai => layers._target_: did you mean LayerDecay?
feedback._target_=lrflow.feedback.Plato => feedback._target_: did you mean Plateau?
health.mine._target_=lrflow.health.Sharpnes => health.mine._target_: did you mean Sharpness?
schedule.shape._target_=lrflow.schedules.Cosin => schedule.shape._target_: did you mean Cosine?
schedule._args_=[1] => schedule._args_: Schedule takes no such argument
""",
    "optimizer": r"""
optimizer.foreach=banana => optimizer.foreach: expected true or false, or null
optimizer.maximize=5 => optimizer.maximize: expected true or false
optimizer.capturable=null => optimizer.capturable: expected true or false
optimizer.differentiable=yess => optimizer.differentiable: expected true or false
optimizer.amsgrad=1 => optimizer.amsgrad: expected true or false
optimizer.fused=maybe => optimizer.fused: expected auto, true or false
optimizer.fused=true  optimizer.foreach=true => optimizer.foreach: a fused step is neither foreach
optimizer.fused=true  optimizer.differentiable=true => optimizer.differentiable: optimizer.fused=auto
optimizer.betas=[0.9,0.99,0.999] => optimizer.betas: expected a list of 2 numbers
optimizer.betas=[0.9] => optimizer.betas: two numbers
optimizer.betas=0.9 => optimizer.betas: two numbers
optimizer.betas=[a,b] => optimizer.betas: two numbers
optimizer.betas={a:1} => optimizer.betas: expected a list
optimizer.betas.a=1 => optimizer.betas.a: is a list, whose entries have the numbers 0 to 1
optimizer.eps=small => optimizer.eps: expected a number above 0
optimizer.eps=[1,2,3] => optimizer.eps: expected a number above 0
optimizer.weight_decay=[0.1] => optimizer.weight_decay: at least 0
optimizer.weight_decay=nan => optimizer.weight_decay: at least 0
optimizer.lr="2e-5" => optimizer.lr: it is text: write 2e-5 without quotes
optimizer.lr=1e-3x => optimizer.lr: expected a number
optimizer.lr={} => optimizer.lr: expected a number
optimizer.lr=[] => optimizer.lr: expected a number
optimizer.lr= => optimizer.lr: expected a number
optimizer.lr=logrange(1e-4,1,5) => optimizer.lr: optimizer.lr=interval(1e-4,1), which is logarithmic
optimizer.lr=loguniform(1e-4,1) => optimizer.lr: there is no function loguniform
optimizer.lr=rang(1,2) => optimizer.lr: there is no function rang
optimizer.lr=range(a,b) => optimizer.lr: cannot be evaluated: mismatch type argument
optimizer.lr=interval(1) => optimizer.lr: cannot be evaluated
optimizer=sgd  optimizer.momentum=-0.1 => optimizer.momentum: at least 0 and below 1
optimizer=sgd  optimizer.dampening=2 => optimizer.dampening: from 0 to 1
optimizer=sgd  optimizer.nesterov=1 => optimizer.nesterov: expected true or false
optimizer.momentum=0.9 => optimizer.momentum: optimizer=airbench, optimizer=lars, optimizer=momentum and 4 more have it
optimizer=sgd  optimizer.betas=[0.9,0.9] => optimizer.betas: torch.optim.SGD takes no betas
optimizer=rprop  optimizer.step_sizes=[1,0.1] => optimizer.step_sizes: the second is not below the first
optimizer=rprop  optimizer.step_sizes=[0,0.1] => optimizer.step_sizes: two numbers above 0
optimizer=rprop  optimizer.step_sizes=0.1 => optimizer.step_sizes: expected a list of 2 numbers
optimizer=rprop  optimizer.etas=[0.5] => optimizer.etas: expected a list of 2 numbers
optimizer=rprop  optimizer.etas=[1.2,0.5] => optimizer.etas: one between 0 and 1 and one above 1
optimizer=rmsprop  optimizer.alpha=1 => optimizer.alpha: below 1
optimizer=rmsprop  optimizer.centered=5 => optimizer.centered: expected true or false
optimizer=adagrad  optimizer.lr_decay=-1 => optimizer.lr_decay: at least 0
optimizer=adagrad  optimizer.initial_accumulator_value=x => optimizer.initial_accumulator_value: expected a number
optimizer=adafactor  optimizer.d=0.5 => optimizer.d: of at least 1
optimizer=adafactor  optimizer.beta2_decay=1 => optimizer.beta2_decay: at most 0
optimizer=nadam  optimizer.momentum_decay=-1 => optimizer.momentum_decay: at least 0
optimizer=nadam  optimizer.decoupled_weight_decay=maybe => optimizer.decoupled_weight_decay: true or false
optimizer=lbfgs  optimizer.max_iter=2.5 => optimizer.max_iter: expected a whole number
optimizer=lbfgs  optimizer.tolerance_grad=-1 => optimizer.tolerance_grad: at least 0
optimizer=lbfgs  optimizer.max_eval=many => optimizer.max_eval: expected a whole number, or null
clip=norm  clip._target_=torch.nn.Linear => clip._target_: is not a guard
signals.machine=maybe => signals.machine: true or false
optimizer=shampoo  optimizer.blok_size=3 => optimizer.blok_size: did you mean optimizer.block_size?
optimizer=shampoo  optimizer.graft_type=x => optimizer.graft_type: expected a whole number
optimizer=adan  optimizer.foo=3 => optimizer.foo: pytorch_optimizer.Adan takes no foo
optimizer=adan  optimizer.weight_decouple=3 => optimizer.weight_decouple: expected true or false
optimizer=adan  optimizer.betas=[0.9,0.9,0.9,0.9] => optimizer.betas: two numbers (three
optimizer=lion  optimizer.wd=0.1 => optimizer.wd: did you mean optimizer.weight_decay?
optimizer=soap  optimizer.precondition_frequency=0 => optimizer.precondition_frequency: above 0
optimizer=muon  optimizer.routes.moun.lr=0.1 => optimizer.routes.moun: did you mean optimizer.routes.muon?
optimizer=muon  optimizer.routes.muon.ns_steps=0 => optimizer.routes.muon.ns_steps: above 0
optimizer=muon  optimizer.routes.muon.nesterov=x => optimizer.routes.muon.nesterov: expected true or false
optimizer=muon  optimizer.routes.muon.foo=1 => optimizer.routes.muon.foo: lrflow.optimizers.Muon takes no foo
optimizer.routes=5 => optimizer.routes: expected a mapping
optimizer@x=sgd => optimizer@x: a group has one option only
~optimizer.lrr => optimizer.lrr: there is no such key to delete
~optimizer.lr=5 => optimizer.lr: only this value can be deleted
optimizer.lr=auto  task=plan => optimizer.lr: task=plan needs an LR as a number
""",
    "schedule": r"""
schedule=cosin => schedule: did you mean schedule=cosine?
schedule.warmup= => schedule.warmup: write a number of steps
schedule.warmup=5% of it => schedule.warmup: write a number of steps
schedule.warmup=5 epcohs => schedule.warmup: write a number of steps
schedule.warmup=-1 => schedule.warmup: cannot be negative
schedule.warmup=2.5 => schedule.warmup: not a whole number of steps
schedule.warmup=nan => schedule.warmup: a duration is a finite number
schedule.warmup=1e999 epochs => schedule.warmup: a duration is a finite number
schedule.warmup=1e30 epochs => schedule.warmup: steps that a run has at most
schedule.warmup=[1] => schedule.warmup: not a duration
schedule.warmup={a:1} => schedule.warmup: not a duration
schedule.warmup=true => schedule.warmup: duration
schedule.warmup=400 => schedule.warmup: the run has only 400
schedule.warmup_start=150% => schedule.warmup_start: a fraction of the peak LR
schedule.warmup_shape=lineer => schedule.warmup_shape: did you mean linear?
schedule.warmup_shape=exponential  schedule.warmup_start=0 => schedule.warmup_start: cannot start at 0
schedule.cooldown=10% => schedule.cooldown: would spend its 40 steps at an LR of 0
schedule.cooldown_shape=sqrt => schedule.cooldown_shape: expected one of linear, cosine, 1-sqrt
schedule=constant  schedule.cooldown=10%  schedule.cooldown_shape=exponential => schedule.cooldown_shape: give a floor
schedule.warmup_start=-1 => schedule.warmup_start: above 1, a multiple of the peak
schedule.also={weight_decay: {warmup: 9, warmup_start: 2}} => schedule.also.weight_decay.warmup_start: from 0 to 1
schedule.floor=2 => schedule.floor: a fraction of the peak LR: a number from 0 to 1
schedule.floor=-0.1 => schedule.floor: a fraction of the peak LR
schedule.floor='"1e-6 lr"' => schedule.floor: such as 1%
schedule.floor="1e-6 lrs" => schedule.floor: for an LR of 1e-06 write '1e-06 lr'
schedule.floor=lr => schedule.floor: a fraction of the peak LR
schedule.floor=true => schedule.floor: a fraction of the peak LR
schedule.warmup_mode=override => schedule.warmup_mode: give schedule.shape_from=start
schedule.warmup_mode=mutiply  schedule.shape_from=start => schedule.warmup_mode: did you mean multiply?
schedule.warmup_ends=last_step => schedule.warmup_ends: did you mean schedule.warmup_ends_at?
schedule.warmup_ends_at=last_step  schedule.warmup_shape=constant => schedule.warmup_ends_at: give next_step
schedule.count_from=2 => schedule.count_from: expected 0 or 1
schedule.rounding=ceil => schedule.rounding: expected one of nearest, up, down
schedule.shape_length=0 => schedule.shape_length: expected a duration above 0
schedule.shape_length=100 => schedule.shape_length: an LR of 0, where the rest of the run would stay
schedule=power  schedule.shape.after=1% => schedule.shape.after: the peak would never be reached
resume.horizon=rewram => resume.horizon: did you mean rewarm?
schedule.hold=400 => schedule.hold: the LR would never move
schedule.hold=x => schedule.hold: not a duration
schedule.delay=400 => schedule.delay: is 400 steps, but the run has only 400
schedule.delay=100% => schedule.delay: it would never move
schedule.delay=380  schedule.warmup=30 => schedule.warmup: is 30 steps, but the run has only 20
schedule.dealy=1 => schedule.dealy: did you mean schedule.delay?
schedule.wramup=5 => schedule.wramup: did you mean schedule.warmup?
schedule.num_warmup_steps=5 => schedule.num_warmup_steps: did you mean schedule.warmup?
schedule.warmup_steps=5 => schedule.warmup_steps: did you mean schedule.warmup?
schedule.min_lr=5 => schedule.min_lr: did you mean schedule.floor?
schedule.warmpu=5 => schedule.warmpu: did you mean schedule.warmup?
schedule.also={momentum: {invers: true}} => schedule.also.momentum.invers: mean schedule.also.momentum.inverse?
schedule.T_max=5 => schedule.T_max: takes no such argument
schedule.also=[1] => schedule.also: expected a mapping
schedule.also.momentum=[1] => schedule.also.momentum: expected a mapping
schedule.also={lr: {low: 0}} => schedule.also.lr: the schedule itself sets the LR
schedule.also={momentum: {low: 2}} => schedule.also.momentum.low: and below 1
schedule.also={weight_decay: {low: 1, high: 0.1}} => schedule.also.weight_decay.low: is above high
schedule.also={weight_deacy: {low: 0}} => schedule.also.weight_deacy: did you mean weight_decay?
schedule.also={weight_decay: {warmup: x}} => schedule.also.weight_decay.warmup: not a duration
schedule.also={weight_decay: {inverse: maybe}} => schedule.also.weight_decay.inverse: true or false
""",
    "shapes": r"""
schedule.shape=cosine => schedule.shape: expected a mapping
schedule.shape.k=0 => schedule.shape.k: above 0
schedule.shape.kk=1 => schedule.shape.kk: did you mean schedule.shape.k?
schedule=cyclical  schedule.shape.smooth=maybe => schedule.shape.smooth: expected true or false
schedule=cyclical  schedule.shape.smooth=1 => schedule.shape.smooth: expected true or false
schedule=cyclical  schedule.shape.cycle=1 => schedule.shape.cycle: needs two: one up, one down
schedule=cyclical  schedule.shape.low=5 => schedule.shape.low: from 0 to 1
schedule=cyclical  schedule.shape.gamma=0 => schedule.shape.gamma: above 0
schedule=exponential  schedule.shape.staircase=2 => schedule.shape.staircase: expected true or false
schedule=exponential  schedule.shape.gamma=2 => schedule.shape.gamma: above 0 to 1
schedule=exponential  schedule.shape.every=0 => schedule.shape.every: shorter than one step
schedule=step  schedule.shape.every=400 => schedule.shape.every: the LR never falls
schedule=step  schedule.shape.gamma=x => schedule.shape.gamma: expected a number
schedule=multistep  schedule.shape.milestones=50% => schedule.shape.milestones: at least one duration
schedule=multistep  schedule.shape.milestones=[] => schedule.shape.milestones: at least one duration
schedule=multistep  schedule.shape.milestones=[x] => schedule.shape.milestones[0]: not a duration
schedule=multistep  schedule.shape.milestones.a=1 => schedule.shape.milestones.a: is a list
schedule=warm_restarts  schedule.shape.period=400 => schedule.shape.period: there is no restart
schedule=warm_restarts  schedule.shape.multiplier=0.5 => schedule.shape.multiplier: from 1
schedule=one_cycle  schedule.also=null  schedule.shape.curve=cosin => schedule.shape.curve: did you mean cosine?
schedule=one_cycle  schedule.also=null  schedule.shape.rise=100% => schedule.shape.rise: never come down
schedule=tabulated  schedule.shape.points=[[0,1],[0,1]] => schedule.shape.points[1]: not after the point before
schedule=tabulated  schedule.shape.points=[[0,2]] => schedule.shape.points[0][1]: from 0 to 1
schedule=tabulated  schedule.shape.between=steps => schedule.shape.between: linear, hold
schedule=tabulated  schedule.shape.file=missing.csv => schedule.shape.file: cannot be read
schedule=piecewise  schedule.shape.pieces=[] => schedule.shape.pieces: at least one piece
schedule=piecewise  schedule.shape.pieces=[{}] => schedule.shape.pieces[0].shape: expected a shape
""",
    "layers": r"""
fast=true  layers.rules=3 => layers.rules: expected a list
fast=true  layers.rules=[a] => layers.rules[0]: expected a mapping
fast=true  schedule.also=3 => schedule.also: expected a mapping
fast=true  schedule.also=${x} => schedule.also: the config has no x
layers=layr_decay => layers: did you mean layers=layer_decay?
layers.rules={a:1} => layers.rules: expected a list
layers.rules.foo=1 => layers.rules.foo: is a list, whose entries have the numbers
layers.rules=5 => layers.rules: expected a list
layers.rules=[5] => layers.rules[0]: expected a mapping
layers.rules=[{name: a, match: 5}] => layers.rules[0].match: text or a list of texts
layers.rules=[{name: a, ndim: -1}] => layers.rules[0].ndim: whole number
layers.rules=[{name: a, ndim: two}] => layers.rules[0].ndim: whole number
layers.rules=[{name: 5, match: '*'}] => layers.rules[0].name: text needs quotes here
layers.rules=[{name: a, match: '*', freeze: maybe}] => layers.rules[0].freeze: expected true or false
layers.rules=[{name: a, match: '*', unfreeze: x}] => layers.rules[0].unfreeze: not a duration
layers.rules=[{name: a, match: '*', unfreeze_warmup: 5}] => layers.rules[0].unfreeze_warmup: never unfrozen
layers.rules=[{name: a, match: '*', weight_decay: -1}] => layers.rules[0].weight_decay: at least 0
layers.rules=[{name: a, match: '*', lr: 0x}] => layers.rules[0].lr: a multiple of the peak
layers.rules=[{name: a, match: '*', lr: "1e-3"}] => layers.rules[0].lr: it is text: write 1e-3 without quotes
layers.rules=[{name: a, match: '*', route: moun}] => layers.rules[0].route: optimizer=muon adds one
layers=layer_decay  layers.foo=3 => layers.foo: it takes decay, min_scale, no_decay
layers=layer_decay  layers.decai=3 => layers.decai: did you mean layers.decay?
layers=layer_decay  layers.blocks_per_layer=x => layers.blocks_per_layer: expected a whole number
layers=layer_decay  layers.decay=banana => layers.decay: expected a number
layers=layer_decay  layers.no_decay=5 => layers.no_decay: expected true or false
layers=gradual_unfreezing  layers.factor=x => layers.factor: expected a number
layers=gradual_unfreezing  layers.freeze_statistics=x => layers.freeze_statistics: expected true or false
layers=mup  layers.base=3 => layers.base: expected a mapping
layers=mup  layers.base={widht: 3} => layers.base.widht: takes no widht
""",
    "feedback": r"""
feedback=platau => feedback: did you mean feedback=plateau?
feedback.patience=3 => feedback.patience: has no effect without feedback
feedback=plateau  feedback.factor=1 => feedback.factor: below 1
feedback=plateau  feedback.factor=x => feedback.factor: above 0 and below 1
feedback=plateau  feedback.patience=1.5 => feedback.patience: a whole number
feedback=plateau  feedback.patience=-1 => feedback.patience: at least 0
feedback=plateau  feedback.patiense=1 => feedback.patiense: did you mean feedback.patience?
feedback=plateau  feedback.cooldown=x => feedback.cooldown: whole number
feedback=plateau  feedback.mode=maximum => feedback.mode: expected one of min, max
feedback=plateau  feedback.every=5 => feedback.every: is read after each validation
feedback=plateau  feedback.min_factor=2 => feedback.min_factor: at most 1
feedback=plateau  feedback.threshold_mode=relative => feedback.threshold_mode: rel, abs
feedback=plateau  feedback.monitor=5 => feedback.monitor: text needs quotes here
feedback=plateau  feedback.monitor=val/lss => feedback.monitor: did you mean val/loss?
feedback=plateau  feedback.monitor=loss => feedback.monitor: does not log this metric
feedback=plateau  data.val_size=0 => feedback.monitor: there is no validation: data.val_size is 0
feedback=plateau  trainer.limit_val_batches=0 => feedback.monitor: trainer.limit_val_batches is 0
feedback=greedy  feedback.window=0 => feedback.window: above 0
feedback=greedy  feedback.max_factor=0.5 => feedback.max_factor: at least 1
feedback=sasa  feedback.min_samples=x => feedback.min_samples: or null
""",
    "scaling": r"""
scaling.foo=1 => scaling.foo: scaling has rule, reference, batch
scaling=linea => scaling: did you mean scaling=linear?
scaling=linear  scaling.reference=x => scaling.reference: whole number above 0
scaling=linear  scaling.reference=256.0 => scaling.reference: write 256
scaling=linear  scaling.reference=256  scaling.batch=-1 => scaling.batch: above 0
scaling.rule=5 => scaling.rule: none, linear, sqrt
scaling.refrence=5 => scaling.refrence: did you mean scaling.reference?
""",
    "data": r"""
data=digit => data: did you mean data=digits?
data.batch_size=0 => data.batch_size: above 0
data.batch_size=64.0 => data.batch_size: write 64
data.batch_size="64" => data.batch_size: it is text: write 64 without quotes
data.batch_size=null => data.batch_size: expected a whole number
data.batch_siz=64 => data.batch_siz: did you mean data.batch_size?
data.eval_batch_size=x => data.eval_batch_size: whole number
data.val_size=-1 => data.val_size: a number of examples, or a share
data.val_size=200% => data.val_size: a number of examples, or a share
data.drop_last=maybe => data.drop_last: expected true or false
data.num_workers=-1 => data.num_workers: from 0 to 256
data.num_workers=true => data.num_workers: from 0 to 256
data.loader.num_workers=257 => data.loader.num_workers: from 0 to 256
data.loader.prefetch_factor=2 => data.loader.prefetch_factor: add data.loader.num_workers=2
data.loader.num_workers=0  data.loader.persistent_workers=true => data.loader.persistent_workers: there are none
data.loader.num_workers=2  data.num_workers=3 => data.loader.num_workers: leave out one of the two
data.loader.workers=2 => data.loader.workers: did you mean data.loader.num_workers?
data.pin_memory=true => data.pin_memory: did you mean data.loader.pin_memory?
data.split_seed=x => data.split_seed: whole number
data.sampler=weighted => data.sampler: the training examples have no weights
data.file=houses.csv => data.file: and data=table
data.fil=houses.csv => data.fil: it takes batch_size
data.shuffle=true => data.shuffle: takes no shuffle
data.facts=[1] => data.facts: expected a mapping
data.facts.exmaples=5 => data.facts.exmaples: did you mean data.facts.examples?
data.facts.output=5 => data.facts.output: did you mean data.facts.outputs?
data.facts.examples=0 => data.facts.examples: above 0
data.facts.shape=[0] => data.facts.shape: whole numbers above 0
data.facts.loss=ce => data.facts.loss: cross_entropy & model.loss: cross_entropy
data=fashion_mnist  data.download=maybe => data.download: expected true or false
data=fashion_mnist  data.root=5 => data.root: expected
data=stream => data.shards: must be given a value
data=stream  data.shards=none.tar => data.shards: no such file or folder
data=stream  data.shards=[] => data.shards: a list of paths
data=stream  data.shards=x.tar  data.bad_files=ignore  data.check=0 => data.bad_files: error, skip & data.check: or all
""",
    "model": r"""
model=cn => model: there is no such option
model.norm=5 => model.norm: expected true or false
model.norm=maybe => model.norm: expected true or false
model.dropout=x => model.dropout: expected a number
model.dropout=0.1.2 => model.dropout: expected a number
model.dropout="0.5" => model.dropout: it is text: write 0.5 without quotes
model.widths=5 => model.widths: expected a list of whole numbers
model.widths=[1.5] => model.widths: expected a list of whole numbers
model.widths=[a] => model.widths: expected a list of whole numbers
model.widths={a:1} => model.widths: expected a list
model.width=5 => model.width: did you mean model.widths?
model.shape=64 => model.shape: expected a list of whole numbers
model.shape=[8,x] => model.shape: expected a list of whole numbers
model.outputs=ten => model.outputs: expected a whole number
model.outputs=10.0 => model.outputs: expected a whole number
model.outputs=true => model.outputs: expected a whole number
model.shape=[64.0] => model.shape: a list of whole numbers
model.lr=1 => model.lr: did you mean optimizer.lr?
model.loss=mae => model.loss: did you mean l1?
model.loss=mse => model.loss: needs numbers
model.loss=bce_with_logits => model.loss: these fit: cross_entropy
model.loss=gaussian_nll => model.loss: more than an output
model.loss={name: huber, delta: 0}  model.outputs=1 => model.loss.delta: above 0
model.loss.label_smoothing=2 => model.loss.label_smoothing: from 0 to 1
model.loss.label_smothing=0.1 => model.loss.label_smothing: did you mean label_smoothing?
model.loss.weight=[1,2] => model.loss.weight: has 2 weights, and the model has 10 outputs
model.loss=nll => model.loss: the outputs of lrflow's models are logits
model.metrics={f1: {task: binary}} => model.metrics.f1: compares two classes, and the model has 10 outputs
model.metrics={f1: {num_classes: 3}} => model.metrics.f1.num_classes: the model has 10 outputs
model.metrics={accuracy: {top_k: 30}} => model.metrics.accuracy.top_k: from 1 to 10
model.loss.weight=heavy => model.loss.weight: a list of numbers
model.loss.weights=[1,2] => model.loss.weights: did you mean weight?
model.loss={name: mse, weight: [1]}  model.outputs=1 => model.loss.weight: takes no weight
model.loss.reduction=sum => model.loss.reduction: expected mean
model.loss=5 => model.loss: the name of a loss
model.loss._target_=os.system => model.loss._target_: not trusted
model.metrics=[f1_] => model.metrics.f1_: did you mean f1?
model.metrics=[mae] => model.metrics.mae: compares numbers
model.metrics=[loss] => model.metrics.loss: another name
model.metrics=[[f1]] => model.metrics: a list of names
model.metrics.f1=macro => model.metrics: a list of names
model.metrics.f1.average=makro => model.metrics.f1.average: did you mean macro?
model.metrics.f1.average=none => model.metrics.f1.average: a value per class
model.metrics.f1.avrage=macro => model.metrics.f1.avrage: did you mean average?
model.metrics=[fbeta] => model.metrics.fbeta.beta: needs it
model.metrics=[ranking_loss] => model.metrics.ranking_loss: not defined for multiclass
model.metrics.c._target_=torchmetrics.ConfusionMatrix => model.metrics.c._target_: more than one value
model.metrics.c._target_=os.system => model.metrics.c._target_: not trusted
model.metrics=[f1]  trainer.checkpoint.monitor=val/f2 => trainer.checkpoint.monitor: did you mean val/f1?
model.fresh=[a] => model.fresh: has no effect without model.init_from
model.init_from=last  model.fresh=['re:('] => model.fresh: a valid regular expression
model.init_from=5 => model.init_from: text needs quotes here
model=cnn  model.norm=5 => model.norm: expected
model=resnet  model.width=wide => model.width: expected a whole number
model=resnet  model.blocks=2 => model.blocks: expected a list of whole numbers
model=custom => model._target_: must be given a value
own=torch.nn.Linear => model.in_features: torch.nn.Linear needs it & model.out_features: needs it
own=torch.nn.Linear  model.in_features=a  model.out_features=2 => model.in_features: a whole number
own=torch.nn.Linear  model._args_=[64,10]  model.bias=maybe => model.bias: true or false
own=torch.nn.Flatten  model.start=1 => model.start: did you mean model.start_dim?
""",
    "trainer": r"""
trainer=gpuu => trainer: did you mean trainer=gpu?
trainer.checkpoint=[1] => trainer.checkpoint: expected a mapping
trainer.max_epochs=[1] => trainer.max_epochs: whole number
trainer.max_epochs=20.0 => trainer.max_epochs: write 20
trainer.max_epochs="20" => trainer.max_epochs: it is text: write 20 without quotes
trainer.max_epochs=inf => trainer.max_epochs: whole number
trainer.max_epochs=1000000000000000 => trainer.max_epochs: more than 1,000,000,000,000 optimizer steps
trainer.max_steps=1e4 => trainer.max_steps: write 10000
trainer.max_steps=1e15 => trainer.max_steps: the most steps of a run
trainer.max_steps=10000000000000 => trainer.max_steps: from 1 to 1,000,000,000,000
trainer.max_steps=0 => trainer.max_steps: from 1 to
trainer.max_steps=-1 => trainer.max_steps: from 1 to
trainer.max_samples=5 => trainer.max_samples: less than a step
trainer.accumulate_grad_batches=0 => trainer.accumulate_grad_batches: above 0
trainer.gradient_clip_val=0 => trainer.gradient_clip_val: above 0
trainer.gradient_clip_val=off => trainer.gradient_clip_val: above 0
trainer.strategy=ddp_spawn => trainer.strategy: lrflow's run the command again
trainer.gradient_clip_algorithm=nrom => trainer.gradient_clip_algorithm: did you mean norm?
trainer.val_every=0 => trainer.val_every: a duration above 0
trainer.val_every=x => trainer.val_every: not a duration
trainer.limit_train_batches=0.5 => trainer.limit_train_batches: whole number
trainer.limit_val_batches=-1 => trainer.limit_val_batches: at least 0
trainer.log_every=0 => trainer.log_every: from 1 to 100,000
trainer.log_every=1000000000 => trainer.log_every: rows are held in memory
trainer.devices=two => trainer.devices: a list of device numbers
trainer.devices=-1 => trainer.devices: from 1 to 256
trainer.num_nodes=0 => trainer.num_nodes: above 0
trainer.accelerator=cuda:0 => trainer.accelerator: did you mean cuda?
trainer.precision=32-ture => trainer.precision: did you mean 32-true?
trainer.strategy=5 => trainer.strategy: auto, ddp, fsdp
trainer.deterministic=warn => trainer.deterministic: expected true or false
trainer.compile=1 => trainer.compile: expected true or false
trainer.channels_last=x => trainer.channels_last: expected true or false
trainer.progress=bar => trainer.progress: auto, true or false
trainer.batch_norm_batches=x => trainer.batch_norm_batches: at least 0
trainer.epochs=5 => trainer.epochs: did you mean trainer.max_epochs?
trainer.grad_clip=1 => trainer.grad_clip: did you mean trainer.gradient_clip_val?
trainer.gpus=1 => trainer.gpus: did you mean trainer.devices?
""",
    "checkpoint": r"""
trainer.checkpoint.monitor=val/lss => trainer.checkpoint.monitor: did you mean val/loss?
trainer.checkpoint.monitor=val_loss => trainer.checkpoint.monitor: did you mean val/loss?
trainer.checkpoint.monitor=loss => trainer.checkpoint.monitor: does not log this metric
trainer.checkpoint.monitor=5 => trainer.checkpoint.monitor: text needs quotes here
trainer.checkpoint.monitor=val/accuracy  data.val_size=0 => trainer.checkpoint.monitor: there is no validation
trainer.checkpoint.best=3  trainer.checkpoint.name="{val/los}" => trainer.checkpoint.name: did you mean val/loss
trainer.checkpoint.best=3  data.val_size=0 => trainer.checkpoint.monitor: there is no validation
trainer.checkpoint.mode=lower => trainer.checkpoint.mode: expected one of min, max
trainer.checkpoint.keep=0 => trainer.checkpoint.keep: above 0
trainer.checkpoint.every=0 => trainer.checkpoint.every: above 0
trainer.checkpoint.every=never => trainer.checkpoint.every: not a duration
trainer.checkpoint.every.x=1 => trainer.checkpoint.every: not a duration
trainer.checkpoint.save_top_k=1 => trainer.checkpoint.save_top_k: there is no such key
average.decay=0.9 => average.decay: average=ema has it
average=ema  average.last=10% => average.last: average=tail has it
callbacks=timer  callbacks.timer.duration=00:00:00:00 => callbacks.timer.duration: would end before its first step
callbacks=timer  callbacks.timer.duration={seconds: 0} => callbacks.timer.duration: would end before its first step
task.test=best  trainer.checkpoint.monitor=null => task.test: is null
""",
    "logger": r"""
logger.foo=1 => logger.foo: the loggers are csv, wandb, tensorboard, mlflow, trackio, comet
logger.project=x => logger.project: did you mean logger.wandb.project?
logger=wandbb => logger: did you mean logger=wandb?
logger.csv=maybe => logger.csv: expected true or false
logger.wandb=5 => logger.wandb: expected a mapping
logger=wandb  logger.wandb.mode=on => logger.wandb.mode: expected one of auto, online
logger=wandb  logger.wandb.tags=a => logger.wandb.tags: expected a list
logger=wandb  logger.wandb.tags=[1] => logger.wandb.tags[0]: expected text
logger=wandb  logger.wandb.projct=a => logger.wandb.projct: did you mean logger.wandb.project?
logger.tensorboard=5 => logger.tensorboard: expected a mapping
logger=tensorboard  logger.tensorboard.foo=1 => logger.tensorboard.foo: there is no such key
logger=tensorboard  logger.tensorboard.log_grph=true => logger.tensorboard.log_grph: logger.tensorboard.log_graph?
logger=tensorboard  logger.tensorboard.log_graph=5 => logger.tensorboard.log_graph: expected true or false
logger=tensorboard  logger.tensorboard.save_dir=x => logger.tensorboard.save_dir: there is no such key
""",
    "health": r"""
health=non => health: did you mean health=none?
health.nonfinite=stopp => health.nonfinite.action: did you mean stop?
health.nonfinite.action=explode => health.nonfinite.action: stop, warn, ignore
health.nonfinite.acton=stop => health.nonfinite.acton: did you mean health.nonfinite.action?
health.sharpness=5 => health.sharpness: expected a mapping
health.sharpness.every=0 => health.sharpness.every: above 0
health.sharpness.batches=x => health.sharpness.batches: above 0
health.sharpnes.every=5 => health.sharpnes: did you mean health.sharpness?
sharpness.every=x => sharpness.every: not a duration
sharpness.evry=5 => sharpness.evry: did you mean sharpness.every?
sharpness.products=0 => sharpness.products: above 0
sharpness.every=5  optimizer=lion => optimizer._target_: no stability bound
""",
    "find": r"""
find=rang => find: did you mean find=range?
find.low=1  find.high=0.1 => find.high: more than find.low
find.low=0 => find.low: above 0
find.steps=10 => find.steps: at least 40 readings
find.steps=x => find.steps: not a duration
find.sweeps=0 => find.sweeps: above 0
find.monitor=val/lss  task=find => find.monitor: did you mean val/loss?
find.monitor=val/loss  data.val_size=0 => data.val_size: needs validation
find.confirm_runs=2 => find.confirm_runs: at least 3
find.check=maybe => find.check: expected true or false
find.kind=rangee => find.kind: did you mean range?
find=stability  find.batches=0 => find.batches: above 0
find=stability  find.low=1 => find.low: there is no such key
task=find  find=stability  optimizer=lion => optimizer._target_: no stability bound
""",
    "task": r"""
task.foo=1 => task.foo: task has name, test
task=trian => task: did you mean task=train?
task.name=trian => task.name: did you mean train?
task.test=worst => task.test: true, false, best or last
task=plan  against=nowhere  horizon.steps=0 => horizon.steps: from 1 to
task=plan  horizon.steps=10000000000000 => horizon.steps: the most steps of a run
task=plan  horizon.steps_per_epoch=x => horizon.steps_per_epoch: from 1 to
task=plan  horizon.samples_per_step=0 => horizon.samples_per_step: above 0
task=plan  horizon.step=5 => horizon.step: did you mean horizon.steps?
task=analyze  task.mode=low => task.mode: expected one of min, max
task=analyze  task.margin=x => task.margin: such as 5%
seed=x => seed: from 0 to 4294967295
seed=1.0 => seed: write 1
seed="010" => seed: it is text: write 10 without quotes
seed=010 => seed: from 0 to
name=5 => name: text needs quotes here
name= => name: a name for a folder
name=a/b => name: a name for a folder
output=5 => output: a folder
trial={number: 1, study: a, storage: b} => trial: is set by a sweep
trial=None => trial: is set by a sweep
fast=maybe => fast: fast=true or fast=false
fastt=true => fastt: there is no such group or key
a.b=c => a: there is no such group or key
+foo/bar=1 => foo/bar: there is no such group or key
++seed.a=1 => seed: from 0 to
""",
    "resume": r"""
resume=nowhere => resume: expected
resume=last => resume: expected
resume=a,b => resume: cannot be swept
resume.from=nowhere => resume: expected
resume.form=last => resume.form: did you mean resume.from?
resume.horizon=extend => resume.horizon: only a resumed run uses it
resume.horizon=longer => resume.horizon: expected one of keep, rescale
task=evaluate  task.from=nowhere => task.from: expected
task=evaluate => task.from: expected
task=evaluate  resume=last => resume: task.from=last
""",
    "hydra": r"""
hydra=5 => hydra: expected
hydra.foo=1 => hydra.foo: Hydra has no such key
hydra.sweep=5 => hydra.sweep: expected a mapping
hydra.run=5 => hydra.run: expected a mapping
hydra.job.name=[1] => hydra.job.name: expected text
hydra.job.chdir=maybe => hydra.job.chdir: expected true or false
hydra.mode=MULTIRUN => hydra.mode: -m starts a sweep
hydra.searchpath=[a] => hydra.searchpath: --config-dir
hydra/launcher=jobli => hydra/launcher: did you mean joblib?
""",
    "grammar": r"""
~logger=0 => logger: expected the name of the option to leave out
~hydra/launcher=[a] => hydra/launcher: the name of the option to leave out
~fast => ~fast: cannot be left out
~recipe => ~recipe: cannot be left out
~name => name: nothing to delete
optimizer.lr => optimizer.lr: expected key=value
=5 => =5: expected key=value
lr 5=3 => lr 5: a key cannot contain spaces
optimizer.lr=0.1, => optimizer.lr: ends with a comma
optimizer.lr=0.1,0.2 => optimizer.lr: add -m
optimizer.lr=[0.1 => optimizer.lr: put special characters in quotes
name=foo(bar) => name: a text needs quotes
name=a:b => name: a name for a folder
optimizer.lr=${optimizer.lr} => optimizer.lr: circle
optimizer.lr=${optimizer.l} => optimizer.lr: did you mean ${optimizer
""",
    "sweeps": r"""
-m  optimizer.lr=range(0,1000000000) => optimizer.lr: has 1,000,000,000 values, of which 10,000 are possible
-m  seed=range(0,1000)  optimizer.lr=range(0.001,1,0.001)  optimizer.weight_decay=0,0.1 => sweep: at most 10,000
-m  optimizer.lr=range(0,inf) => optimizer.lr: expected finite ends
-m  optimizer.lr=range(0,1,0) => optimizer.lr: a step other than 0
-m  optimizer.lr=logrange(1e-4,1,5) => optimizer.lr: interval(1e-4,1)
-m  optimizer.lr=interval(1e-4,1) => optimizer.lr: an interval needs a sampler
-m  optimizer.lr=glob(*) => optimizer.lr: matches no option
-m  ~optimizer.lr=1,2 => optimizer.lr: a deleted key cannot be swept
-m  optimizer=sgd,adamww => optimizer: did you mean optimizer=adamw?
-m  optimizer.lrr=0.1,0.2 => optimizer.lrr: did you mean optimizer.lr?
-m  sweep.n_trials=5 => sweep: no key has several values
-m  optimizer.lr=0.1,0.2  sweep.n_trials=0 => sweep.n_trials: above 0
-m  optimizer.lr=0.1,0.2  sweep.n_trails=5 => sweep.n_trails: did you mean sweep.n_trials?
-m  optimizer.lr=0.1,0.2  sweep.sampler=bayes => sweep.sampler: grid, random
-m  optimizer.lr=0.1,0.2  sweep.pruner=ashaa => sweep.pruner: did you mean asha?
-m  optimizer.lr=0.1,0.2  sweep.mode=best => sweep.mode: min, max
-m  optimizer.lr=0.1,0.2  sweep.storage=redis://x => sweep.storage: memory, journal
-m  optimizer.lr=0.1,0.2  sweep.storage=postgresql://lr:pw@host/x => sweep.storage: write sweep.storage=${oc.env:NAME}
-m  optimizer.lr=0.1,0.2  sweep.metric=5 => sweep.metric: text
-m  optimizer.lr=0.1,0.2  sweep.metric=val/lss => sweep.metric: did you mean val/loss?
-m  optimizer.lr=0.1,0.2  sweep.pruning.frist=0.5 => sweep.pruning.frist: did you mean
-m  optimizer.lr=0.1,0.2  sweep.pruner.foo=1 => sweep.pruner.foo: there is no such key
-m  optimizer.lr=interval(1,0.1)  sweep.sampler=random => optimizer.lr: with LOW below HIGH
-m  optimizer.lr=interval(0,1)  sweep.sampler=random => optimizer.lr: must start above 0
-m  optimizer.lr=tag(lgo,interval(0.1,1))  sweep.sampler=random => optimizer.lr: there is no such tag
-m  optimizer.lr=interval(0.1,1)  sweep.sampler=grid => optimizer.lr: a grid needs values
-m  optimizer.lr=0.1,0.2  hydra.sweeper.foo=1 => hydra.sweeper.foo: Hydra has no such key
-m  optimizer.lr=0.1,0.2  hydra/launcher=vectorized  hydra.launcher.size=1 => hydra.launcher.size: at least 2
""",
    "flags": r"""
--config-dir  nowhere  seed=1 => --config-dir: there is no such folder
--cfg  jobb => --cfg: expected one of job, hydra, all
--info  plug => --info: expected one of all, config
--resolve => --resolve: needs --cfg job
--multirn => --multirn: did you mean --multirun?
--lr=0.1 => --lr=0.1: without dashes
-m  --cfg  job => command line: exclude each other
trust=a-b => trust: the name of a Python package
""",
}
"""Wrong command lines by room."""

DOUBTFUL = r"""
schedule.hold_part=shape => schedule.hold_part=shape has no effect without schedule.hold
schedule.warmup=0  schedule.shape_from=start => schedule.shape_from=start has no effect without schedule.warmup
schedule=tabulated  schedule.shape.points=[[0, 1e-3], [50%, 5e-4]] => the highest LR is 0.1% of optimizer.lr
schedule.warmup=1 => schedule.warmup=1 is one step: write '1 step' if it is meant
schedule.warmup=0.01% => schedule.warmup=0.01% is less than one step (of 400)
schedule=constant  schedule.cooldown=0.05% => schedule.cooldown=0.05% is less than one step (of 400)
schedule.hold=1 => schedule.hold=1 is one step
schedule.delay=1 => schedule.delay=1 is one step
health.cooldown=1 => health.cooldown=1 is one step
health.kick.over=1 => health.kick.over=1 is one step
schedule.floor=1 => schedule.floor=1 is the peak itself
schedule.floor=100% => schedule.floor=1 is the peak itself
schedule.warmup=0  schedule.warmup_start=0.1 => schedule.warmup_start=0.1 has no effect without schedule.warmup
schedule.warmup=0  schedule.warmup_shape=cosine => schedule.warmup_shape=cosine has no effect without schedule.warmup
schedule.cooldown_shape=1-sqrt => schedule.cooldown_shape=1-sqrt has no effect without schedule.cooldown
schedule.also={weight_decay: {low: 0.1, high: 0.2, cooldown_shape: cosine}} => schedule.also.weight_decay.cooldown_shape
trainer.gradient_clip_algorithm=value => trainer.gradient_clip_algorithm=value has no effect without
trainer.at_max_time=stop => trainer.at_max_time=stop has no effect without trainer.max_time
trainer.max_time='1 h'  trainer.at_max_time=stop  trainer.max_time_cooldown=5% => no effect with trainer.at_max_time
callbacks=early_stopping  callbacks.early_stopping.then_for=5% => no effect with callbacks.early_stopping.then=stop
trainer.gradient_clip_algorithm=norm => trainer.gradient_clip_algorithm=norm has no effect without
trainer.limit_val_batches=0  trainer.val_every=5 => trainer.val_every=5 steps has no effect
sharpness.every=500 => sharpness.every is 500 steps, but the run has only 400
health.sharpness.every=21 epochs => sharpness.every is 21 epochs, but the run has only 400
feedback=plateau  feedback.patience=20 => feedback.patience=20 is not below the 20 validations of the run
feedback=plateau  trainer.val_every=20 epochs => val/loss is read at the end of the run only
feedback=greedy  feedback.patience=60 => feedback.patience=60 is not below the 50 readings
feedback=greedy  feedback.warmup=50 => feedback.warmup=50 is not below the 50 readings
feedback=plateau  feedback.monitor=train/loss  feedback.every=500 => feedback.every is 500 steps
find.steps=100 => find.steps has no effect in task=train
"""
"""Command lines that are accepted with a warning, and how a part of that reads."""

RIGHT = r"""
schedule.floor='1e-6 lr'  schedule.warmup_start='1e-7 lr'  schedule.warmup=5
schedule.shape_from=start  schedule.warmup_mode=multiply  schedule.hold='1 epoch'  schedule.hold_part=shape
schedule.shape_length='90_000 steps'  schedule.count_from=1  schedule.rounding=up
schedule.warmup=9  schedule.warmup_start=3  schedule.shape_from=start  schedule.warmup_mode=blend
schedule.delay='1 epoch'  schedule.hold='1 epoch'  schedule.warmup='2 epochs'
seed=1
optimizer.foreach=true
optimizer.foreach=null
optimizer.maximize=true
optimizer.betas=[0.9,0.95]
optimizer.eps=1e-6
optimizer.lr=1
optimizer=rprop  optimizer.step_sizes=[1e-6,50]
schedule.warmup=10
schedule.warmup="1 step"
schedule.warmup=1 epoch
schedule.warmup=1%
schedule.floor=1%
schedule.floor=0.1
schedule.floor=0
schedule.warmup_start=10%
schedule=constant  schedule.cooldown=20%  schedule.cooldown_shape=1-sqrt
schedule=warm_restarts  schedule.shape.multiplier=2  schedule.shape.period=10
schedule.also={weight_decay: {low: 0, high: 0.1}}
layers=layer_decay  layers.decay=1
layers=layer_decay  layers.no_decay=false
layers.rules=[{name: a, match: '*', lr: 2x}]
feedback=plateau  feedback.patience=0
feedback=greedy  feedback.reset=3
scaling=linear  scaling.reference=256
data.batch_size=32
data.num_workers=2
data.loader={num_workers: 2, pin_memory: true, prefetch_factor: 1, persistent_workers: true}
data.facts.shape=[64]
model.norm=false
model.dropout=0
model.widths=[32]
model.widths=[]
model.shape=[1,8,8]
model.loss=multi_margin
model.loss.label_smoothing=0.1
model.loss={name: cross_entropy, ignore_index: 3}
model.loss=mse  model.outputs=1  model.metrics=[rmse]
model.metrics=f1
model.metrics=[f1,auroc]  trainer.checkpoint.monitor=test/auroc
model.metrics.top3={_target_: torchmetrics.Accuracy, top_k: 3}  trainer.checkpoint.monitor=val/top3
model.metrics.f1._target_=torchmetrics.classification.MulticlassF1Score
own=torch.nn.Linear  model._args_=[64,10]  model.loss=cross_entropy
own=torch.nn.Conv2d  model._args_=[1,2]  model.kernel_size=[3,3]  model.padding=same  model.loss=mse
own=torch.nn.Conv2d  model._args_=[1,2,3]  model.padding=1  model.loss=mse
own=torch.nn.LeakyReLU  model.negative_slope=1  model.loss=mse
own=torch.nn.TransformerEncoderLayer  model.d_model=8  model.nhead=2  model.activation=gelu  model.loss=mse
trainer.max_epochs=1
trainer.max_steps=10000000000  trainer.max_epochs=null
trainer.max_samples=1000000
trainer.gradient_clip_val=1  trainer.gradient_clip_algorithm=value
trainer.precision=16
trainer.devices=[0,1]
trainer.checkpoint.every=1 epoch
trainer.checkpoint.keep=null
trainer.checkpoint.monitor=val/accuracy
trainer.checkpoint.monitor=train/loss
trainer.checkpoint.monitor=null
logger=wandb  logger.wandb.tags=[a,b]
health.nonfinite=warn
health.sharpness=null
sharpness.every=50
find.check=true  find.steps=100
task=find  find.monitor=val/loss
task=plan  horizon.steps=10000000000
task=plan  horizon.steps=10000000000  schedule.hold=100000  schedule.warmup=1000000
task=plan  horizon.steps=10000000000  schedule=warm_restarts  schedule.shape.multiplier=2  schedule.shape.period=2
name="5"
fast=true
hydra.job.name=mine
-m  optimizer.lr=0.1,0.01  seed=range(0,3)
-m  optimizer.lr=interval(1e-4,1)  sweep.sampler=random
"""
"""Command lines that are right and give no warning."""
