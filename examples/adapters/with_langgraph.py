"""A graph of LangGraph that looks until it answers: pip install pxr-gym langgraph langchain-openai"""

from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.tools import StructuredTool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from pxr_env import ToolSession


def tools_of(session):
    def tool(name, description, parameters):
        def run(**arguments):
            return session.call(name, arguments).content

        return StructuredTool.from_function(run, name=name, description=description, args_schema=parameters)

    return [tool(**schema["function"]) for schema in session.tools]


def play(model, session, **which):
    """Plays one episode; `model` is a chat model of LangChain that takes images and tools."""
    question, tools = session.reset(**which), tools_of(session)
    bound = model.bind_tools(tools)
    graph = StateGraph(MessagesState)
    graph.add_node("agent", lambda state: {"messages": [bound.invoke(state["messages"])]})
    graph.add_node("tools", ToolNode(tools))
    graph.add_edge(START, "agent")
    graph.add_conditional_edges("agent", tools_condition)
    graph.add_edge("tools", "agent")
    messages = [SystemMessage(session.native_prompt), HumanMessage(question)]
    state = graph.compile().invoke({"messages": messages})
    return session.end(state["messages"][-1].text)


if __name__ == "__main__":
    from langchain_openai import ChatOpenAI

    session = ToolSession("pxr_env:pxr/SyntheticSearch-v0", images="png")
    print(play(ChatOpenAI(model="gpt-5-mini"), session, seed=0).reward)
