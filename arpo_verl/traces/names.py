"""Names of attributes: those of OpenTelemetry's conventions for generative AI, and ours.

The conventions are in development. Their names stand here as texts, as the package `opentelemetry-semantic-conventions`
keeps them under `_incubating`, from where it may take them away; a test compares them with it.
"""

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
MODEL = "gen_ai.request.model"
CONVERSATION = "gen_ai.conversation.id"
AGENT_ID, AGENT_NAME = "gen_ai.agent.id", "gen_ai.agent.name"
INPUT_MESSAGES, OUTPUT_MESSAGES = "gen_ai.input.messages", "gen_ai.output.messages"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
TOOL_NAME, TOOL_TYPE = "gen_ai.tool.name", "gen_ai.tool.type"
TOOL_CALL_ID = "gen_ai.tool.call.id"
TOOL_ARGUMENTS, TOOL_RESULT = "gen_ai.tool.call.arguments", "gen_ai.tool.call.result"
EVALUATION_NAME, EVALUATION_SCORE = "gen_ai.evaluation.name", "gen_ai.evaluation.score.value"
ERROR_TYPE = "error.type"
CONVENTIONS = (
    *(OPERATION, PROVIDER, MODEL, CONVERSATION, AGENT_ID, AGENT_NAME, INPUT_MESSAGES, OUTPUT_MESSAGES, OUTPUT_TOKENS),
    *(TOOL_NAME, TOOL_TYPE, TOOL_CALL_ID, TOOL_ARGUMENTS, TOOL_RESULT, EVALUATION_NAME, EVALUATION_SCORE, ERROR_TYPE),
)
EVALUATION_EVENT = "gen_ai.evaluation.result"
TREE, LEAF, GENERATION, TOOL = "invoke_workflow", "invoke_agent", "text_completion", "execute_tool"
"""Values of `OPERATION`."""
RESULT = "tool_result"
"""The name of the span of a segment that was inserted, which has no operation of its own."""
DECISION_EVENT, REFUSAL_EVENT = "arpo.decision", "arpo.refusal"
