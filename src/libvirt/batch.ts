/**
 * Questions that are asked before anybody has waited for an answer are handed on together, at most `most` at a time;
 * `answer` gives as many answers as it was asked questions, in their order.
 */
export function batched<Question, Answer>(
  most: number,
  answer: (questions: readonly Question[]) => Promise<readonly (Answer | Promise<Answer>)[]>,
): (question: Question) => Promise<Answer> {
  interface Waiting {
    readonly question: Question;
    readonly resolve: (answer: Answer | Promise<Answer>) => void;
    readonly reject: (error: unknown) => void;
  }
  let waiting: Waiting[] = [];

  const hand = async (asked: readonly Waiting[]): Promise<void> => {
    try {
      const answers = await answer(asked.map(({ question }) => question));
      asked.forEach(({ resolve }, index) => resolve(answers[index] as Answer | Promise<Answer>));
    } catch (error) {
      asked.forEach(({ reject }) => reject(error));
    }
  };

  return (question) =>
    new Promise((resolve, reject) => {
      waiting.push({ question, resolve, reject });
      if (waiting.length > 1) return;
      queueMicrotask(() => {
        const asked = waiting;
        waiting = [];
        for (let at = 0; at < asked.length; at += most) void hand(asked.slice(at, at + most));
      });
    });
}
